// Shows the released series of a run with cornerstone3D: scrolls through the images, and changes the window.
import * as cornerstone from "./cornerstone.js";

const $ = (id) => document.getElementById(id);
cornerstone.cache.setMaxCacheSize(256 * 2 ** 20); // bytes
cornerstone.init({ rendering: { useCPURendering: true } }); // the same on every machine, and enough for one image
cornerstone.setUseCPURendering(true);

// The server sends a line of JSON about a frame, and then its pixels; see `study/viewer.py`.
const told = new Map();

async function load(imageId) {
  const answer = await fetch(imageId.replace(/^frame:/, ""));
  if (!answer.ok) throw new Error((await answer.json()).detail);
  const body = await answer.arrayBuffer();
  const end = new Uint8Array(body).indexOf(10);
  const frame = JSON.parse(new TextDecoder().decode(body.slice(0, end)));
  told.set(imageId, frame);
  const data = new globalThis[frame.type](body.slice(end + 1));
  return frame.samples === 3 ? inColor(imageId, frame, data) : inGrey(imageId, frame, data);
}

function inGrey(imageId, frame, data) {
  let [least, most] = [Infinity, -Infinity];
  for (const value of data) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  return image(imageId, frame, data, { minPixelValue: least, maxPixelValue: most });
}

// The library takes colours with an alpha channel.
function inColor(imageId, frame, data) {
  const pixels = new Uint8Array((data.length / 3) * 4).fill(255);
  for (let from = 0, to = 0; from < data.length; from += 3, to += 4) {
    pixels[to] = data[from];
    pixels[to + 1] = data[from + 1];
    pixels[to + 2] = data[from + 2];
  }
  return image(imageId, frame, pixels, { minPixelValue: 0, maxPixelValue: 255, color: true, rgba: true });
}

// The library sees the values as they are sent: its windows are at least 1 wide, and levels may be smaller than that.
function asStored({ slope, intercept }, { lower, upper }) {
  return { lower: (lower - intercept) / slope, upper: (upper - intercept) / slope };
}

function image(imageId, frame, data, more) {
  const { rows, columns } = frame;
  const { lower, upper } = asStored(frame, { lower: frame.low, upper: frame.high });
  const parts = frame.samples === 3 ? 4 : 1;
  return {
    imageId,
    rows,
    columns,
    height: rows,
    width: columns,
    slope: 1,
    intercept: 0,
    windowCenter: (lower + upper) / 2,
    windowWidth: Math.max(upper - lower, 1),
    voiLUTFunction: "LINEAR",
    invert: frame.invert,
    rowPixelSpacing: frame.spacing,
    columnPixelSpacing: 1,
    color: false,
    rgba: false,
    numberOfComponents: parts,
    dataType: data.constructor.name,
    sizeInBytes: data.byteLength,
    getPixelData: () => data,
    voxelManager: cornerstone.utilities.VoxelManager.createImageVoxelManager({
      width: columns,
      height: rows,
      scalarData: data,
      numberOfComponents: parts,
    }),
    ...more,
  };
}

function about(kind, imageId) {
  const frame = told.get(imageId);
  if (!frame) return undefined;
  const { rows, columns, spacing } = frame;
  const color = frame.samples === 3;
  const signed = frame.type === "Int16Array" ? 1 : 0;
  const bits = color ? 8 : 16;
  return {
    imagePixelModule: {
      samplesPerPixel: frame.samples,
      photometricInterpretation: color ? "RGB" : frame.invert ? "MONOCHROME1" : "MONOCHROME2",
      rows,
      columns,
      bitsAllocated: bits,
      bitsStored: bits,
      highBit: bits - 1,
      pixelRepresentation: signed,
    },
    imagePlaneModule: {
      rows,
      columns,
      rowCosines: [1, 0, 0],
      columnCosines: [0, 1, 0],
      imagePositionPatient: [0, 0, 0],
      imageOrientationPatient: [1, 0, 0, 0, 1, 0],
      rowPixelSpacing: spacing,
      columnPixelSpacing: 1,
    },
    generalSeriesModule: { modality: "OT" },
  }[kind];
}

cornerstone.imageLoader.registerImageLoader("frame", (imageId) => ({ promise: load(imageId) }));
cornerstone.metaData.addProvider(about, 10);
const engine = new cornerstone.RenderingEngine("viewer");
engine.enableElement({ viewportId: "image", type: cornerstone.Enums.ViewportType.STACK, element: $("viewport") });
const viewport = engine.getViewport("image");

let frames = []; // of the chosen series
let stack = null; // the frames that the viewport has
let at = 0;
let range = null; // the window that a person has set; null: that of the image
let busy = false;

async function choose() {
  const address = $("series").value;
  $("shown").textContent = "Loading …";
  try {
    const answer = await fetch(address);
    const list = await answer.json();
    if (address !== $("series").value) return;
    if (!answer.ok) throw new Error(list.detail);
    frames = list.images.flatMap(([file, count]) =>
      Array.from({ length: count }, (_, frame) => `frame:${address}/${file}/${frame}`),
    );
    if (!frames.length) throw new Error("This series has no images that can be shown.");
    range = null;
    $("place").max = frames.length;
    show(Math.floor(frames.length / 2));
  } catch (error) {
    frames = [];
    $("shown").textContent = error.message;
  }
}

// Who scrolls fast passes over what has not come yet.
async function show(place) {
  at = Math.max(0, Math.min(frames.length - 1, place));
  $("place").value = at + 1;
  if (busy) return;
  busy = true;
  for (let done = null; frames.length && done !== frames[at]; ) {
    done = frames[at];
    try {
      await go(done);
    } catch (error) {
      $("shown").textContent = `Image ${at + 1} of ${frames.length}: ${(error.error ?? error).message}`;
    }
  }
  busy = false;
}

async function go(imageId) {
  await cornerstone.imageLoader.loadAndCacheImage(imageId);
  if (imageId !== frames[at]) return;
  if (stack === frames) await viewport.setImageIdIndex(at);
  else await viewport.setStack((stack = frames), at);
  if (imageId !== frames[at]) return;
  draw();
  const next = frames[at + 1]; // if it cannot be shown, that is said when it is its turn
  if (next) cornerstone.imageLoader.loadAndCacheImage(next).catch(() => {});
}

const own = () => {
  const { low, high } = told.get(frames[at]);
  return { lower: low, upper: high };
};

function draw() {
  const frame = told.get(frames[at]);
  const grey = frame?.samples === 1;
  const { lower, upper } = range ?? own();
  if (grey) viewport.setProperties({ voiRange: asStored(frame, { lower, upper }) });
  viewport.render();
  const number = (value) => Number(value.toPrecision(5)).toLocaleString("en");
  const window_ = grey ? `, centre ${number((lower + upper) / 2)}, width ${number(upper - lower)}` : "";
  const size = `, ${frame.columns * frame.step} × ${frame.rows * frame.step} pixels`;
  $("shown").textContent = `Image ${at + 1} of ${frames.length}${size}${window_}`;
}

// What a person does

const box = $("viewport");
box.addEventListener("wheel", (event) => {
  event.preventDefault();
  show(at + Math.sign(event.deltaY));
}, { passive: false });
box.addEventListener("keydown", (event) => {
  const to = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: frames.length - 1 };
  if (!(event.key in to)) return;
  event.preventDefault();
  show(to[event.key]);
});
let held = null; // where the pointer was last, while it is down
box.addEventListener("pointerdown", (event) => {
  box.setPointerCapture(event.pointerId);
  held = event;
});
box.addEventListener("pointermove", (event) => {
  if (!event.buttons || !held || told.get(frames[at])?.samples !== 1) return;
  const [right, down] = [event.clientX - held.clientX, event.clientY - held.clientY];
  held = event;
  const { lower, upper } = range ?? own();
  const usual = own();
  const pace = Math.max(usual.upper - usual.lower, 1e-6) / 300; // levels of a pixel of the screen
  const width = Math.max(upper - lower + right * pace, pace / 10);
  const centre = (lower + upper) / 2 + down * pace;
  range = { lower: centre - width / 2, upper: centre + width / 2 };
  draw();
});
$("place").addEventListener("input", () => show(Number($("place").value) - 1));
$("series").addEventListener("change", choose);
$("reset").addEventListener("click", () => {
  range = null;
  show(at);
});
new ResizeObserver(() => {
  if (!frames.length) return;
  engine.resize(true);
  viewport.render();
}).observe(box);

choose();

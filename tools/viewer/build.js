// Writes the library of the viewer as one file, and beside it the licences of all that is in it:
//   npm ci && npm run build
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const target = "../../pacsifier_ops/web/static/cornerstone";
const read = (path) => readFileSync(path, "utf-8");
const about = (folder) => JSON.parse(read(`${folder}/package.json`));
const core = about("node_modules/@cornerstonejs/core");

const { metafile } = await build({
  entryPoints: ["entry.js"],
  outfile: `${target}.js`,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "ascii",
  legalComments: "none", // they are in the text beside it
  banner: { js: `/* ${core.name} ${core.version} (${core.license}), built by tools/viewer; licences in cornerstone.txt */` },
  alias: { xmlbuilder2: "./nothing.js" },
  metafile: true,
});

const [{ inputs }] = Object.values(metafile.outputs);
const folders = Object.keys(inputs)
  .filter((path) => inputs[path].bytesInOutput)
  .map((path) => path.match(/^.*node_modules\/(?:@[^/]+\/)?[^/]+/)?.[0])
  .filter(Boolean);
const licences = [...new Set(folders)].sort().map((folder) => {
  const { name, version, license } = about(folder);
  return `${name} ${version}: ${license}\n\n${text(folder, name)}\n`;
});

// The text of a licence: a file of the package; of cornerstone3D, that of its repository; or the end of the readme.
function text(folder, name) {
  const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
  if (file) return read(`${folder}/${file}`).trim();
  if (name.startsWith("@cornerstonejs/")) return read("LICENSE.cornerstone").trim();
  const [, found] = read(`${folder}/README.md`).match(/^LICENSE[^]*?\n\n([^]*)/m);
  return found.trim();
}

writeFileSync(`${target}.txt`, `cornerstone.js contains these packages.\n\n${licences.join(`\n${"-".repeat(79)}\n\n`)}`);

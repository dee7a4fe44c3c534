// What the viewer uses of cornerstone3D.
export {
  cache,
  Enums,
  imageLoader,
  init,
  metaData,
  RenderingEngine,
  setUseCPURendering,
  utilities,
} from "@cornerstonejs/core";

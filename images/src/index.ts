export { baseTemplateDiskMib } from "./base-template/base-template-part.ts";
export { ensureImages, readImages, type EnsureImagesOptions } from "./ensure-images.ts";
export { ImageBuildError } from "./image-build-error.ts";
export type { OnProgress, Progress } from "./progress.ts";
export { pruneImages, type PruneImagesOptions } from "./prune-images.ts";

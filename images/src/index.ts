export { baseTemplateDiskMib } from "./base-template/base-template-part.ts";
export { debianRecipeVersion, makeDebianArchive, type DebianArchive } from "./debian-archive.ts";
export { ensureImages, readImages, type EnsureImagesOptions } from "./ensure-images.ts";
export { ImageBuildError } from "./image-build-error.ts";
export type { OnProgress, Progress } from "./progress.ts";
export { pruneImages, type PruneImagesOptions } from "./prune-images.ts";
export { sourceDateEpoch } from "./source-date.ts";
export { digestOfSparseFile } from "./sparse-digest.ts";

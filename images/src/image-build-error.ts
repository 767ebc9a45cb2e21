/** An image could not be made, for a reason the operator can do something about; the message says what. */
export class ImageBuildError extends Error {
  override readonly name = "ImageBuildError";
}

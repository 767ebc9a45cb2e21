/** Tells how far the images are. `fraction` (0 to 1) where a step knows it. */
export interface Progress {
  readonly step: string;
  readonly message: string;
  readonly fraction?: number;
}

export type OnProgress = (progress: Progress) => void;

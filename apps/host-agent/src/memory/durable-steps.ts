/**
 * Moments between the durable steps of what an image folder does. Whatever is killed at one of them, `recover` finds the old state or the new one.
 * Tests kill the process there, or make the step fail.
 */
export const durableSteps = [
  /** A staging folder was made */
  "stage:made",
  /** All files that a linked or revised generation shares were linked */
  "link:linked",
  /** The manifest was written and every file of the generation fsynced */
  "commit:files-synced",
  /** … and every folder that names one of them */
  "commit:folders-synced",
  /** The staging folder has the generation's name */
  "commit:renamed",
  /** … durably: the generation is complete, and nobody knows it yet */
  "commit:published",
  /** The new pointer was written beside the old one, and fsynced */
  "current:written",
  /** It took the old one's place */
  "current:renamed",
  /** … durably: from here on the new state is the current one */
  "current:synced",
  /** A new base file is complete under its staging name */
  "base:written",
  "base:synced",
  "base:renamed",
  "base:published",
  /** A generation or a superseded revision lost its name */
  "remove:renamed",
  "remove:synced",
  "remove:deleted",
  /** One file that no generation names was removed */
  "prune:file-removed",
] as const;
export type DurableStep = (typeof durableSteps)[number];

/** Called and awaited at each durable step; what it throws makes the operation fail there. */
export type OnStep = (step: DurableStep) => void | Promise<void>;

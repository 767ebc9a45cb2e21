import type { RecipeSource, RecipeStep } from "@roost/contract";

import type { DockerfileNote } from "./dockerfile/dockerfile-error.ts";

/** A recipe before the files that its COPYs name were looked at. */

/** A file whose content stands in the Dockerfile */
export interface InlineFile {
  readonly name: string;
  readonly content: string;
}

/** COPY or ADD of files that are here. */
export interface LocalCopy {
  readonly kind: "local-copy";
  /** Paths or patterns below the context folder, with their variables' values */
  readonly sources: readonly string[];
  readonly inline: readonly InlineFile[];
  /** As recipes have it */
  readonly destination: string;
  /** undefined: the user that the step finds */
  readonly user: string | undefined;
  readonly mode: string | undefined;
  readonly force: boolean;
  /** ADD unpacks archives, which COPY does not */
  readonly isAdd: boolean;
}

export interface PlannedStep {
  /** Where it was said, for messages: `Dockerfile:7: COPY` */
  readonly where: string;
  /** As it was written, in one line: what people see */
  readonly text: string;
  readonly step: RecipeStep | LocalCopy;
}

export interface PlannedStage {
  readonly name: string;
  readonly where: string;
  readonly from: RecipeSource;
  readonly steps: readonly PlannedStep[];
}

export interface RecipePlan {
  /** Earlier stages that something is taken from, in order */
  readonly stages: readonly PlannedStage[];
  /** The one that becomes the template */
  readonly main: PlannedStage;
  readonly startCommand: string | undefined;
  readonly readyCommand: string | undefined;
  readonly force: boolean;
  readonly notes: readonly DockerfileNote[];
}

/** Characters of a step that people are shown */
const shownLengthMax = 120;

export function oneLine(text: string): string {
  const line = text.replaceAll(/\s+/g, " ").trim();
  return line.length > shownLengthMax ? `${line.slice(0, shownLengthMax - 1)}…` : line;
}

/** Whether a destination says that it is a folder: only then it takes several files. */
export function isFolder(destination: string): boolean {
  return /(^|\/)\.{0,2}$/.test(destination);
}

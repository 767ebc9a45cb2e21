import { RoostError } from "../../errors.ts";

/** Where in a Dockerfile something is. */
export interface Place {
  readonly file: string;
  /** From 1 */
  readonly line: number;
  /** In capitals, such as `COPY` */
  readonly keyword: string;
}

/** What a template build leaves out or does in another way than Docker. A `note` changes nothing that anybody would miss. */
export interface DockerfileNote extends Place {
  readonly level: "note" | "warning";
  readonly message: string;
}

/** A Dockerfile that no template can be built from. The message says where, what, and what would be accepted. */
export class DockerfileError extends RoostError implements Place {
  readonly file: string;
  readonly line: number;
  readonly keyword: string;

  constructor(place: Place, problem: string, options: { readonly cause?: unknown } = {}) {
    super("dockerfile_invalid", `${textOf(place)}: ${problem}`, options);
    ({ file: this.file, line: this.line, keyword: this.keyword } = place);
  }
}

/** `Dockerfile:7: COPY` */
export function textOf({ file, line, keyword }: Place): string {
  return `${file}:${line}: ${keyword}`;
}

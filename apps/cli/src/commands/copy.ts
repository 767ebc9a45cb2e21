import type { CommandContext } from "../context.ts";
import { exitCodes, UsageError } from "../failure.ts";
import { parseCopyEnd } from "../parse/remote-path.ts";
import { resolveId } from "../sandbox-reference.ts";
import { download } from "../transfer/download.ts";
import { upload } from "../transfer/upload.ts";

export interface CopyOptions {
  readonly user?: string;
}

/** What was copied, for `--json`. */
export interface CopyResult {
  readonly from: string;
  readonly to: string;
  readonly files: number;
  readonly bytes: number;
}

export async function copy(context: CommandContext, from: string, to: string, options: CopyOptions): Promise<number> {
  const source = parseCopyEnd(from);
  const destination = parseCopyEnd(to);
  if ((source.kind === "remote") === (destination.kind === "remote")) {
    throw new UsageError("one of source and destination must be in a sandbox", "write it as ID:path, such as i3x:/tmp/file");
  }
  const client = await context.client();
  let result: CopyResult;
  if (source.kind === "remote" && destination.kind !== "remote") {
    const sandbox = client.sandbox(await resolveId(client, source.sandbox, context.signal));
    result = await download(context, sandbox, source.path, destination, options);
  } else if (destination.kind === "remote" && source.kind !== "remote") {
    const sandbox = client.sandbox(await resolveId(client, destination.sandbox, context.signal));
    result = await upload(context, sandbox, source, destination.path, options);
  } else throw new UsageError("copying between sandboxes needs a stop here", "copy to this machine first");
  if (context.isJson && destination.kind !== "stream") await context.printJson(result);
  return exitCodes.ok;
}

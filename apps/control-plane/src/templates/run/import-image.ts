import { randomBytes } from "node:crypto";
import type { Readable } from "node:stream";

import type { MessageInitShape } from "@bufbuild/protobuf";
import { PlatformError } from "@roost/contract";
import type { ImageConfig, ImportImageRequestSchema } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { formatBytes, hour, MiB, second } from "@roost/kit";

import type { HostLink } from "../../hosts/host-link.ts";
import { fromConnectError } from "../../hosts/from-connect-error.ts";

/** Part of an archive in `bytes`, as PutArchivePart takes it */
const partBytes = 1 * MiB;
/** Longest wait for the host to take a part in `ms` */
const partTimeoutMs = 60 * second;
/** Longest that an image may take in `ms`; the host's own deadlines are shorter */
const importTimeoutMs = 2 * hour;
/** Time between two lines about the same phase in `ms` */
const progressIntervalMs = 2 * second;

export type ImportSource = NonNullable<MessageInitShape<typeof ImportImageRequestSchema>["source"]>;

export interface ImportedImage {
  /** Name of the template on the host */
  readonly template: string;
  /** Names what was imported */
  readonly sourceDigest: string;
  readonly config: ImageConfig | undefined;
  readonly isNew: boolean;
}

/** Gets an image onto a host. `refresh`: Debian packages are looked for anew. `onProgress`: a line for the build's log, not too often. */
export async function importImage(
  host: HostLink,
  { source, refresh }: { readonly source: ImportSource; readonly refresh: boolean },
  onProgress: (line: string) => Promise<void>,
  signal: AbortSignal,
): Promise<ImportedImage> {
  let phase = "";
  let saidMs = -Infinity;
  try {
    for await (const { event } of host.client.importImage({ source, refresh }, { signal, timeoutMs: importTimeoutMs })) {
      if (event.case === "image") {
        host.forgetDescription();
        const { template, sourceDigest, config, isNew } = event.value;
        return { template, sourceDigest, config, isNew };
      }
      if (event.case !== "progress") continue;
      const { message, doneBytes, totalBytes } = event.value;
      const now = performance.now();
      if (event.value.phase === phase && now - saidMs < progressIntervalMs) continue;
      phase = event.value.phase;
      saidMs = now;
      const ofTotal = totalBytes === 0n ? "" : ` of ${formatBytes(Number(totalBytes))}`;
      await onProgress(doneBytes === 0n ? message : `${message}: ${formatBytes(Number(doneBytes))}${ofTotal}`);
    }
  } catch (error) {
    signal.throwIfAborted();
    throw fromConnectError(error, host.id);
  }
  throw new PlatformError("internal", "the host did not say which image it made", { detail: `host ${host.id}` });
}

/** Hands an archive to a host, piece by piece. Answers its name there. */
export async function putArchive(host: HostLink, archive: Readable, signal: AbortSignal): Promise<string> {
  const archiveId = randomBytes(16).toString("hex");
  let offset = 0;
  const put = async (data: Uint8Array, isLast: boolean) => {
    signal.throwIfAborted();
    const part = { archiveId, offset: BigInt(offset), data, isLast };
    await host.call(() => host.client.putArchivePart(part, { signal, timeoutMs: partTimeoutMs }));
    offset += data.length;
  };
  let waiting: Buffer = Buffer.alloc(0);
  for await (const chunk of archive as AsyncIterable<Buffer>) {
    waiting = waiting.length === 0 ? chunk : Buffer.concat([waiting, chunk]);
    for (; waiting.length >= partBytes; waiting = waiting.subarray(partBytes)) await put(waiting.subarray(0, partBytes), false);
  }
  await put(waiting, true);
  return archiveId;
}

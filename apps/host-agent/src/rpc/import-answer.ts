import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { PlatformError } from "@roost/contract";
import {
  ImportImageResponseSchema,
  TemplateSchema,
  type ImportImageRequest,
  type ImportImageResponse,
  type Template as WireTemplate,
} from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { Deferred, type Logger } from "@roost/kit";

import type { ImportedImage } from "../import/image-store.ts";
import type { Importer, ImportOutcome, ImportRequest } from "../import/importer.ts";
import type { ImportProgress } from "../import/make-image.ts";
import { toConnectError } from "./connect-error.ts";

/** Imports, and says how far it is: always the newest, so that a slow reader hears less of it and nothing piles up. */
export async function* answerImport(
  request: ImportImageRequest,
  importer: () => Importer,
  signal: AbortSignal,
  log: Logger,
): AsyncGenerator<ImportImageResponse> {
  // Also when nobody reads the answers any more, which a stream that ends early tells by returning from here
  const gone = new AbortController();
  try {
    let latest: ImportProgress | undefined;
    let news = new Deferred<void>();
    const work = importer()
      .import(fromWire(request), AbortSignal.any([signal, gone.signal]), (progress) => {
        latest = progress;
        news.resolve();
      })
      .then((outcome) => ({ outcome }));
    work.catch(() => undefined); // awaited below, after what it said before
    for (;;) {
      const done = await Promise.race([work, news.promise.then(() => undefined)]);
      if (done !== undefined) {
        yield toWireOutcome(done.outcome);
        return;
      }
      news = new Deferred<void>();
      const progress = latest;
      latest = undefined;
      if (progress === undefined) continue;
      const { phase, message, doneBytes, totalBytes } = progress;
      const value = { phase, message, doneBytes: BigInt(doneBytes), totalBytes: BigInt(totalBytes) };
      yield create(ImportImageResponseSchema, { event: { case: "progress", value } });
    }
  } catch (error) {
    if (signal.aborted) throw new ConnectError("the caller has gone away", Code.Canceled);
    throw toConnectError(error, log);
  } finally {
    gone.abort();
  }
}

function fromWire({ source, diskSizeMib, refresh }: ImportImageRequest): ImportRequest {
  switch (source.case) {
    case "registry": {
      const { reference, username, password, token } = source.value;
      return { source: { kind: "registry", reference, credentials: { username, password, token } }, diskSizeMib, refresh };
    }
    case "archive":
      return { source: { kind: "archive", archiveId: source.value.archiveId }, diskSizeMib, refresh };
    case "debian":
      return { source: { kind: "debian", suite: source.value.suite, packages: source.value.packages }, diskSizeMib, refresh };
    case undefined:
      throw new PlatformError("request_invalid", "source is required");
  }
}

function toWireOutcome({ image: { record }, isNew }: ImportOutcome): ImportImageResponse {
  const { name, digest, sourceDigest, config } = record;
  return create(ImportImageResponseSchema, { event: { case: "image", value: { template: name, digest, sourceDigest, config, isNew } } });
}

export function toWireImported({ record }: ImportedImage): WireTemplate {
  const { name, digest, diskSizeMib, timeCreatedMs } = record;
  return create(TemplateSchema, { name, digest, diskSizeMib, timeCreatedMs: BigInt(timeCreatedMs), kind: "image" });
}

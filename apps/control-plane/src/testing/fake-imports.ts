import { createHash } from "node:crypto";

import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  ImageConfigSchema,
  TemplateSchema,
  type HostAgentService,
  type ImportImageRequest,
  type Template,
} from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import { hostError } from "./fake-images.ts";

/** Images that a host agent without a host gets from nowhere. */
export class FakeImports {
  /** As they came, with what was in archives */
  readonly asked: ImportImageRequest[] = [];
  readonly archives = new Map<string, Buffer>();
  /** What images say of themselves, by reference; others cannot be had */
  readonly registry = new Map<string, MessageInitShape<typeof ImageConfigSchema>>();
  /** What an import waits for, when set */
  gate: Promise<void> | undefined;
  readonly #templates: Map<string, Template>;

  constructor(templates: Map<string, Template>) {
    this.#templates = templates;
  }

  service(): Pick<ServiceImpl<typeof HostAgentService>, "importImage" | "putArchivePart"> {
    return {
      importImage: (request) => this.#import(request),
      putArchivePart: ({ archiveId, offset, data }) => {
        const known = offset === 0n ? Buffer.alloc(0) : (this.archives.get(archiveId) ?? Buffer.alloc(0));
        if (BigInt(known.length) !== offset) throw hostError("request_invalid", `part at ${offset}, but ${known.length} bytes are there`);
        this.archives.set(archiveId, Buffer.concat([known, data]));
        return {};
      },
    };
  }

  async *#import(request: ImportImageRequest) {
    this.asked.push(request);
    const { source } = request;
    const what =
      source.case === "registry"
        ? source.value.reference
        : source.case === "archive"
          ? (this.archives.get(source.value.archiveId) ?? Buffer.alloc(0)).toString("hex")
          : `${source.value?.suite} ${source.value?.packages.join(" ")}`;
    yield { event: { case: "progress" as const, value: { phase: "resolve", message: `looking for ${what.slice(0, 40)}` } } };
    await this.gate;
    const config = this.registry.get(what);
    if (source.case === "registry" && config === undefined) throw hostError("image_unusable", `there is no image ${what}`);
    const digest = createHash("sha256").update(what).digest("hex");
    const name = `image-${digest.slice(0, 24)}`;
    const isNew = !this.#templates.has(name);
    this.#templates.set(name, create(TemplateSchema, { name, kind: "image", digest: `sha256:${digest}`, diskSizeMib: 2048 }));
    const image = {
      template: name,
      digest: `sha256:${digest}`,
      sourceDigest: `sha256:${digest}`,
      isNew,
      config: create(ImageConfigSchema, config ?? {}),
    };
    yield { event: { case: "image" as const, value: image } };
  }
}

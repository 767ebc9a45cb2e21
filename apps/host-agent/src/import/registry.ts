import { open, readFile } from "node:fs/promises";

import { PlatformError } from "@roost/contract";
import { CommandError, formatBytes, MiB, nap, run } from "@roost/kit";

import type { BlobCache } from "./blob-cache.ts";
import { contained, containedEnvironment, secretPath } from "./contained.ts";
import { LayerDamaged, type PackedLayer } from "./layer.ts";
import { documentBytesMax, fetchTimeoutMs, progressIntervalMs, resolveTimeoutMs } from "./limits.ts";
import { digestOfText, readConfig, readDocument, type Manifest, type ReadConfig } from "./manifest.ts";
import { formatReference, isLoopback, type ImageReference } from "./reference.ts";
import { meaningOf } from "./registry-errors.ts";
import { tooLarge } from "./image-tree.ts";
import { unusable } from "./unusable.ts";

export interface Credentials {
  readonly username: string;
  readonly password: string;
  /** An identity token (OAuth 2 refresh token), as `docker login` keeps them; then there is no user and password */
  readonly token: string;
}

export interface RegistryParts {
  readonly cache: BlobCache;
  readonly uid: number;
  /** Registries that may be asked; null: any */
  readonly allowed: ReadonlySet<string> | null;
  /** Registries that are spoken to without checking who they are, or without TLS */
  readonly insecure: ReadonlySet<string>;
  readonly bytesMax: number;
}

/** An image as a registry has it now. */
export interface ResolvedImage {
  readonly reference: ImageReference;
  /** Of the manifest for linux/amd64 */
  readonly digest: string;
  readonly manifest: Manifest;
  readonly credentials: Credentials;
}

/** How far a fetch is in `bytes`. */
export type OnFetched = (doneBytes: number, totalBytes: number) => void;

/** Fetches images with skopeo, which knows registries: logins, redirects, mirrors, retries. Every layer's digest is checked by it, and once more when the layer is unpacked. */
export class Registry {
  readonly #parts: RegistryParts;

  constructor(parts: RegistryParts) {
    this.#parts = parts;
  }

  /** What a reference means now. Rejects with `image_unusable` or `registry_unreachable`. */
  async resolve(reference: ImageReference, credentials: Credentials, signal: AbortSignal): Promise<ResolvedImage> {
    const { allowed } = this.#parts;
    if (allowed !== null && !allowed.has(reference.registry)) {
      throw unusable(
        `images from ${reference.registry} are not allowed here; the operator's ROOST_REGISTRIES says which are: ${[...allowed].join(", ")}`,
      );
    }
    let at = reference;
    for (let step = 0; step < indexDepthMax; step += 1) {
      const text = await this.#inspect(at, credentials, signal);
      const digest = digestOfText(text);
      if (at.digest !== null && at.digest !== digest)
        throw unusable(`the registry has other content under '${formatReference(at)}' than that digest's; push it again`);
      const document = readDocument(text);
      if (document.kind === "manifest") {
        const bytes = document.manifest.layers.reduce((sum, layer) => sum + layer.size, 0);
        if (bytes > this.#parts.bytesMax) throw tooLarge(this.#parts.bytesMax);
        return { reference, digest, manifest: document.manifest, credentials };
      }
      at = { ...reference, digest: document.manifest.digest };
    }
    throw unusable("the image's index leads to further indexes; name the manifest by its digest");
  }

  /**
   * Makes its blobs lie in the cache and opens its layers. Whoever called closes the layers' files, and keeps the blobs in use until then.
   */
  async fetch(
    image: ResolvedImage,
    onFetched: OnFetched,
    signal: AbortSignal,
  ): Promise<{ readonly layers: PackedLayer[]; readonly config: ReadConfig }> {
    const { cache } = this.#parts;
    const { config: configBlob, layers } = image.manifest;
    const missing = await cache.missing([configBlob, ...layers]);
    if (missing.length > 0) await this.#copy(image, onFetched, signal);
    const stillMissing = await cache.missing([configBlob, ...layers]);
    if (stillMissing.length > 0) throw unusable("the image names layers by other digests or sizes than they have; push it again");
    if (configBlob.size > documentBytesMax) throw unusable("the image's configuration is too large");
    const text = await readFile(cache.path(configBlob.digest), "utf8");
    if (digestOfText(text) !== configBlob.digest) throw new LayerDamaged("its configuration has another digest");
    const config = readConfig(text, image.manifest);
    const packed: PackedLayer[] = [];
    try {
      for (const [index, layer] of layers.entries()) {
        const file = await open(cache.path(layer.digest), "r");
        packed.push({ source: { file, start: 0, length: layer.size }, diffId: config.diffIds[index] ?? "" });
      }
    } catch (error) {
      for (const { source } of packed) await source.file.close();
      throw error;
    }
    return { layers: packed, config };
  }

  async #inspect(reference: ImageReference, credentials: Credentials, signal: AbortSignal): Promise<string> {
    const words = ["inspect", "--raw", ...this.#tls(reference, ""), "--authfile", secretPath, `docker://${formatReference(reference)}`];
    return this.#skopeo(words, reference, credentials, resolveTimeoutMs, signal);
  }

  async #copy(image: ResolvedImage, onFetched: OnFetched, signal: AbortSignal): Promise<void> {
    const { cache } = this.#parts;
    const blobs = [image.manifest.config, ...image.manifest.layers];
    const totalBytes = blobs.reduce((sum, blob) => sum + blob.size, 0);
    const work = await cache.createWorkFolder("unprivileged");
    const exact = { ...image.reference, digest: image.digest };
    const stop = new AbortController();
    const tooMuch = new AbortController();
    // Layers stay as they are, so that their digests do
    const to = ["--dest-shared-blob-dir", "blobs", "--dest-oci-accept-uncompressed-layers"];
    const from = [...this.#tls(exact, "src-"), "--src-authfile", secretPath, `docker://${formatReference(exact)}`];
    const platform = ["--override-os", "linux", "--override-arch", "amd64"];
    const words = [...platform, "copy", "--quiet", "--remove-signatures", "--retry-times", "2", ...to, ...from, `oci:${work}:image`];
    const watch = async () => {
      for (;;) {
        await nap(progressIntervalMs, stop.signal);
        if (stop.signal.aborted) return;
        const doneBytes = await cache.fetchedBytes(work, blobs);
        if (doneBytes > totalBytes + fetchSlackBytes) tooMuch.abort();
        onFetched(Math.min(doneBytes, totalBytes), totalBytes);
      }
    };
    const watching = watch();
    try {
      await this.#skopeo(words, exact, image.credentials, fetchTimeoutMs, AbortSignal.any([signal, tooMuch.signal])).catch(
        (error: unknown) => {
          if (tooMuch.signal.aborted)
            throw unusable(`the registry sends more than the ${formatBytes(totalBytes)} that the image's manifest says`);
          throw error;
        },
      );
    } finally {
      stop.abort();
      await watching;
      await cache.removeWorkFolder(work);
    }
  }

  async #skopeo(
    words: readonly string[],
    { registry, ...reference }: ImageReference,
    credentials: Credentials,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<string> {
    const { cache, uid } = this.#parts;
    await cache.prepare();
    const command = contained(["skopeo", ...words], { folder: cache.folder, uid, hasNetwork: true, hasSecret: true });
    try {
      return await run(command, { input: authFile(registry, credentials), timeoutMs, signal, env: containedEnvironment() });
    } catch (error) {
      signal.throwIfAborted();
      // Anything but skopeo's own failure is ours: it is not installed, or cannot be confined
      const isOurs =
        error instanceof CommandError && (error.exitCode === null ? error.message.includes("could not start") : error.exitCode !== 1);
      if (isOurs) {
        throw new PlatformError("internal", "the host cannot run skopeo; its operator may run tools/bootstrap.sh", { cause: error });
      }
      throw meaningOf(error, formatReference({ registry, ...reference }), registry);
    }
  }

  /** The flag that lets skopeo speak to a registry without TLS, where that is allowed. */
  #tls({ registry }: ImageReference, prefix: "" | "src-"): string[] {
    return isLoopback(registry) || this.#parts.insecure.has(registry) ? [`--${prefix}tls-verify=false`] : [];
  }
}

/** Indexes that lead to an index, which Docker's builder makes for attestations */
const indexDepthMax = 3;
/** What a fetch may take beyond what the manifest says in `bytes`: documents, and a layer that is counted twice while it is renamed */
const fetchSlackBytes = 64 * MiB;

/** containers-auth.json(5) */
function authFile(registry: string, { username, password, token }: Credentials): string {
  if (username === "" && password === "" && token === "") return `{"auths":{}}`;
  const auth =
    token === ""
      ? { auth: Buffer.from(`${username}:${password}`).toString("base64") }
      : { auth: Buffer.from("<token>:").toString("base64"), identitytoken: token };
  return JSON.stringify({ auths: { [registry]: auth } });
}

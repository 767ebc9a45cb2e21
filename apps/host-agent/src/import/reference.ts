import { imageReferenceSchema, PlatformError } from "@roost/contract";

/** An image's place, as Docker reads references. */
export interface ImageReference {
  /** `host[:port]`; Docker's own registry where none is written */
  readonly registry: string;
  /** With the registry, without tag and digest */
  readonly repository: string;
  readonly tag: string | null;
  readonly digest: string | null;
}

const dockerHub = "docker.io";

/** Throws `request_invalid`. */
export function parseReference(text: string): ImageReference {
  const parsed = imageReferenceSchema.safeParse(text);
  const [named = "", digest, ...more] = text.split("@");
  const slash = named.indexOf("/");
  const first = slash === -1 ? "" : named.slice(0, slash);
  const hasRegistry = first.includes(".") || first.includes(":") || first === "localhost";
  const path = hasRegistry ? named.slice(slash + 1) : named;
  const match = /^([a-z0-9][a-z0-9._/-]*)(?::([\w][\w.-]{0,127}))?$/.exec(path);
  const registry = hasRegistry ? first : dockerHub;
  const isWell = /^[a-zA-Z0-9.-]+(:\d{1,5})?$/.test(registry) && (digest === undefined || /^sha256:[0-9a-f]{64}$/.test(digest));
  if (!parsed.success || match === null || !isWell || more.length > 0) {
    throw new PlatformError(
      "request_invalid",
      `'${text.slice(0, 128)}' is no image reference; write it as registry.example.com/team/app:tag`,
    );
  }
  const [, repositoryPath = "", tag] = match;
  const inRegistry = registry === dockerHub && !repositoryPath.includes("/") ? `library/${repositoryPath}` : repositoryPath;
  return { registry: registry.toLowerCase(), repository: `${registry}/${inRegistry}`, tag: tag ?? null, digest: digest ?? null };
}

/** As skopeo takes it: with a tag or a digest, not both. */
export function formatReference({ repository, tag, digest }: ImageReference): string {
  return digest === null ? `${repository}:${tag ?? "latest"}` : `${repository}@${digest}`;
}

/** Of this machine itself: what is on it needs no certificate for us to know whom we speak to. */
export function isLoopback(registry: string): boolean {
  const host = registry.replace(/:\d+$/, "");
  return host === "localhost" || /^127(\.\d{1,3}){3}$/.test(host);
}

import { existsSync, mkdirSync, readFileSync, realpathSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

/** Where programs find the certificate that they are to trust. */
export interface TrustedFiles {
  /** It alone */
  readonly own: string;
  /** The system's list with it; null: the guest has no such list */
  readonly bundle: string | null;
}

/** It alone. That it is there tells that it was installed, also when the disk is all that is left of a sandbox. */
export const ownPath = "/etc/ssl/roost-sandbox.pem";

/** The lists of several systems: Debian and Alpine, Alpine's LibreSSL, Fedora, SUSE */
const bundlePaths = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/ssl/cert.pem",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/ca-bundle.pem",
];
/** What their tools make the lists from: a package that is installed later does not lose it */
const anchorPaths = ["/usr/local/share/ca-certificates/roost-sandbox.crt", "/etc/pki/ca-trust/source/anchors/roost-sandbox.pem"];
/** A list of all authorities in the world has a quarter of a MiB */
const bundleBytesMax = 16 * 1024 * 1024;

const mark = "# the authority of this sandbox, set by its host";
const block =
  /^# the authority of this sandbox, set by its host\n-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n/gm;

/**
 * Makes programs of the guest trust the sandbox's authority: in the system's own lists, so that those find it that know nothing of us. The guest may do with these files what it likes; it
 * then refuses what is done for it.
 *
 * `root` stands in front of every path; for tests.
 */
export class TrustedAuthority {
  readonly #root: string;

  constructor(root = "") {
    this.#root = root;
  }

  get isInstalled(): boolean {
    return existsSync(this.#root + ownPath);
  }

  /** In place of the one before; "" = none. What is there already is not written again. */
  install(certificatePem: string): TrustedFiles | undefined {
    for (const path of anchorPaths) if (existsSync(this.#root + dirname(path))) put(this.#root + path, certificatePem);
    const bundles = this.#bundles();
    for (const path of bundles) setBlock(path, certificatePem);
    mkdirSync(this.#root + dirname(ownPath), { recursive: true });
    put(this.#root + ownPath, certificatePem); // last: what was begun and is taken up again finds no trace of it
    if (certificatePem === "") return undefined;
    const [first] = bundles;
    return { own: ownPath, bundle: first === undefined ? null : first.slice(this.#root.length) };
  }

  /** Files, each once: some are links to others. */
  #bundles(): string[] {
    const found = bundlePaths.flatMap((path) => {
      try {
        const real = realpathSync(this.#root + path);
        const { size } = statSync(real);
        return statSync(real).isFile() && size <= bundleBytesMax ? [real] : [];
      } catch {
        return []; // not there, or a link to nothing
      }
    });
    return [...new Set(found)];
  }
}

function setBlock(path: string, certificatePem: string): void {
  const text = readFileSync(path, "latin1");
  const without = text.replaceAll(block, "");
  const lineEnd = without === "" || without.endsWith("\n") ? "" : "\n";
  const next = certificatePem === "" ? without : `${without}${lineEnd}${mark}\n${certificatePem}`;
  if (next !== text) replace(path, next);
}

function put(path: string, text: string): void {
  if (text === "") return rmSync(path, { force: true });
  if (existsSync(path) && readFileSync(path, "latin1") === text) return;
  replace(path, text);
}

/** Whoever reads it meanwhile reads the one or the other. */
function replace(path: string, text: string): void {
  const staging = `${path}.roost-new`;
  writeFileSync(staging, text, { encoding: "latin1", mode: 0o644 });
  renameSync(staging, path);
}

/** For programs that look at no list of the system's, or bring their own. */
export function trustVariables(files: TrustedFiles | undefined): Record<string, string> {
  if (files === undefined) return {};
  return {
    NODE_EXTRA_CA_CERTS: files.own,
    ...(files.bundle === null ? {} : { SSL_CERT_FILE: files.bundle, REQUESTS_CA_BUNDLE: files.bundle }),
  };
}

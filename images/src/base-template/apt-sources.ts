/** One `deb` source in the format of sources.list(5). */
export interface AptSource {
  readonly uri: string;
  readonly suite: string;
  readonly components: readonly string[];
  readonly signedBy?: string;
}

/** The sources of a file in the one-line format: `deb [signed-by=KEYRING] URI SUITE COMPONENT...`. */
export function parseOneLineSources(text: string): readonly AptSource[] {
  const sources: AptSource[] = [];
  for (const line of text.split("\n")) {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+?)\s*(?:#.*)?$/.exec(line);
    if (match === null) continue;
    const [, options = "", uri = "", suite = "", components = ""] = match;
    const signedBy = /(?:^|\s)signed-by=(\S+)/i.exec(options)?.[1];
    sources.push({ uri, suite, components: components.split(/\s+/), ...(signedBy === undefined ? {} : { signedBy }) });
  }
  return sources;
}

/** The sources of a file in the deb822 format (`Types: deb` stanzas); disabled ones are left out. */
export function parseDeb822Sources(text: string): readonly AptSource[] {
  const sources: AptSource[] = [];
  const withoutComments = text.replaceAll(/^#.*\n?/gm, "");
  for (const stanza of withoutComments.split(/\n[ \t]*\n+/)) {
    const field = (name: string) => {
      const value = new RegExp(`^${name}:((?:.*)(?:\\n[ \\t]+.*)*)`, "im").exec(stanza)?.[1];
      return value?.trim().split(/\s+/).filter(Boolean) ?? [];
    };
    if (!field("Types").includes("deb") || field("Enabled")[0]?.toLowerCase() === "no") continue;
    const signedBy = field("Signed-By")[0];
    for (const uri of field("URIs")) {
      for (const suite of field("Suites")) {
        sources.push({ uri, suite, components: field("Components"), ...(signedBy?.startsWith("/") === true ? { signedBy } : {}) });
      }
    }
  }
  return sources;
}

/**
 * Debian's own sources for a release and its updates: what a base template may be made from. Other vendors' sources and
 * backports are left out, so that two machines build the same template.
 */
export function selectDebianSources(sources: readonly AptSource[], codename: string): readonly AptSource[] {
  const suites = new Set([codename, `${codename}-updates`, `${codename}-security`, `${codename}/updates`]);
  return sources.filter(
    ({ suite, components, signedBy }) =>
      suites.has(suite) && components.includes("main") && (signedBy === undefined || /\/debian-archive-[^/]*$/.test(signedBy)),
  );
}

/** As mmdebstrap takes them: only `main`, which is all the template is made of. */
export function formatSources(sources: readonly AptSource[]): string {
  return sources
    .map(({ uri, suite, signedBy }) => `deb ${signedBy === undefined ? "" : `[signed-by=${signedBy}] `}${uri} ${suite} main\n`)
    .join("");
}

import { posix } from "node:path";

import type { RecipeStep, TemplateDefaults } from "@roost/contract";

/** What the steps of a recipe before one have said about how it runs. In the end it is what the template's sandboxes have. */
export interface StepContext {
  /** As it was written: a name, a number, or `user:group`; empty: whom the guest takes, `user` where there is one, else root */
  readonly user: string;
  /** Absolute, or below the user's home when it begins with `~`; empty: the home */
  readonly workdir: string;
  readonly envs: Readonly<Record<string, string>>;
}

export function contextOf({ user, workdir, envs }: Pick<TemplateDefaults, "user" | "workdir" | "envs">): StepContext {
  return { user, workdir, envs: { ...envs } };
}

/** `$NAME` and `${NAME}` become what the variable holds, nothing where it is unknown; `$$` becomes `$`. Every other `$` stays. */
export function expand(text: string, envs: Readonly<Record<string, string>>): string {
  return text.replaceAll(/\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))/g, (whole, braced?: string, plain?: string) => {
    if (whole === "$$") return "$";
    const name = braced ?? plain ?? "";
    return Object.hasOwn(envs, name) ? (envs[name] ?? "") : "";
  });
}

/** A path of a step, below the working directory unless it is absolute. A trailing `/` stays: it says that a folder is meant. */
export function pathIn(context: StepContext, path: string): string {
  if (path.startsWith("/") || path === "~" || path.startsWith("~/")) return posix.normalize(path);
  return posix.join(context.workdir === "" ? "~" : context.workdir, path);
}

/** A path as `pathIn` says it, in a guest where the user's home is known. */
export function withHome(path: string, home: string): string {
  if (path === "") return home;
  return path === "~" || path.startsWith("~/") ? posix.join(home, path.slice(1)) : path;
}

/** What a step says for those after it. Variables of one step do not see each other. */
export function contextAfter(step: RecipeStep, context: StepContext): StepContext {
  switch (step.kind) {
    case "env": {
      const said = Object.entries(step.envs).map(([name, value]) => [name, expand(value, context.envs)] as const);
      return { ...context, envs: { ...context.envs, ...Object.fromEntries(said) } };
    }
    case "workdir":
      return { ...context, workdir: withoutTrailingSlash(pathIn(context, expand(step.path, context.envs))) };
    case "user":
      return { ...context, user: expand(step.name, context.envs) };
    case "run":
    case "copy":
    case "copy-from-stage":
      return context;
  }
}

function withoutTrailingSlash(path: string): string {
  return path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path;
}

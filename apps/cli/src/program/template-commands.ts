import { Option, type Command } from "commander";

import { parseEnvironment, parseInteger, parseMemory } from "../parse/values.ts";
import { examples, withCommonOptions, type ProgramEnvironment } from "./define.ts";

const group = "Templates:";
/** As the contract has them (a test compares), like those of sandboxes. */
export const buildStateNames = ["waiting", "building", "ready", "failed", "cancelled"];
const together = (text: string, before: readonly string[] = []): string[] => [...before, ...text.split(/[\s,]+/).filter(Boolean)];

/** Making templates from Dockerfiles, images, Debian packages and recipes, and what becomes of them. */
export function defineTemplateCommands(program: Command, environment: ProgramEnvironment): void {
  const template = program
    .command("template")
    .helpGroup(group)
    .description("templates built from Dockerfiles, images, Debian packages or recipes")
    .helpCommand(false)
    .addHelpText(
      "after",
      examples(
        "roost template build . -t web",
        "roost template build --from-image python:3.12-slim -t python:3.12",
        "roost create --template web",
        "roost template ls",
        "roost template rm web",
      ),
    );
  defineBuildCommand(template, environment);
  defineManageCommands(template, environment);
  defineTagCommands(template, environment);
  defineBuildsCommands(template, environment);
}

function defineBuildCommand(template: Command, { io, run }: ProgramEnvironment): void {
  const sources = "Sources in place of a folder:";
  const from = (flags: string, description: string) => new Option(flags, description).helpGroup(sources);
  withCommonOptions(
    template
      .command("build")
      .description("build a template, show how it goes, and print its name; Ctrl-C cancels the build")
      .argument("[folder]", "with a Dockerfile or recipe.json, and what it copies (default: this one)")
      .requiredOption("-t, --name <name>", "of the template, perhaps with a tag: name or name:tag")
      .option("--tag <tag>", "a tag that it gets besides; repeatable", together)
      .option("-f, --file <path>", "the Dockerfile, or a recipe when it ends with .json (default: in the folder)")
      .option(
        "--build-arg <name=value>",
        "value of an ARG; a name alone passes your environment's on; repeatable",
        parseEnvironment(io.environment),
      )
      .option("--target <stage>", "the Dockerfile's stage to build (default: the last)")
      .addOption(from("--from-image <reference>", "an OCI image from a registry, such as debian:12-slim"))
      .addOption(from("--from-archive <path>", "an image that is here: a tar archive, or a folder with an OCI layout"))
      .addOption(from("--from-template <name>", "another template"))
      .addOption(from("--from-debian <suite>", "a Debian suite, such as bookworm, with --packages"))
      .addOption(from("--packages <names>", "Debian packages; repeatable, or several with commas").argParser(together))
      .option("--start <command>", "runs on in the template's memory (default: the Dockerfile's ENTRYPOINT and CMD)")
      .option("--no-start", "start nothing, whatever the Dockerfile says")
      .option("--ready <command>", "tried until it succeeds; only then is the memory saved (default: wait 20 s)")
      .option("--vcpus <count>", "virtual CPUs of the build and of sandboxes from it (default: 1)", parseInteger)
      .option("-m, --memory <size>", "memory, likewise: MiB, or with m or g (default: 512m)", parseMemory)
      .option("--no-cache", "do every step anew")
      .option("-d, --detach", "do not wait for it; prints the build's id")
      .option("--registry-user <name>", "user at the image's registry, with --registry-password-stdin")
      .option("--registry-password-stdin", "read the password for that from standard input")
      .option("--registry-credentials-stdin", "read credentials as JSON from there: basic, token, aws or gcp")
      .addHelpText(
        "after",
        examples(
          "roost template build . -t web",
          "roost template build -f docker/Dockerfile.dev . -t web:dev --build-arg VERSION=2",
          "roost template build --from-debian bookworm --packages python3,curl -t tools",
          "roost template build . -t web --start 'npm start' --ready 'curl -fs localhost:3000'",
          "pass show registry | roost template build --from-image registry.example.com/app -t app --registry-user me --registry-password-stdin",
        ),
      ),
  ).action(async (folder: string | undefined, options) =>
    run(options, async (context) => (await import("../commands/template/build.ts")).buildTemplate(context, folder, options)),
  );
}

function defineManageCommands(template: Command, { run }: ProgramEnvironment): void {
  withCommonOptions(
    template
      .command("ls")
      .alias("list")
      .description("list what sandboxes can start from")
      .option("-q, --quiet", "only names")
      .addHelpText("after", examples("roost template ls")),
  ).action(async (options) =>
    run(options, async (context) => (await import("../commands/template/templates.ts")).listTemplates(context, options)),
  );

  withCommonOptions(
    template
      .command("get")
      .description("show one template")
      .argument("<template>", "its name, perhaps with a tag, or id")
      .addHelpText("after", examples("roost template get web", "roost template get web:dev --json | jq .defaults")),
  ).action(async (name: string, options) =>
    run(options, async (context) => (await import("../commands/template/templates.ts")).getTemplate(context, name)),
  );

  withCommonOptions(
    template
      .command("publish")
      .description("let every team use built templates, and so read all that is in them, their memory too")
      .argument("<template...>", "their names")
      .addHelpText("after", examples("roost template publish web")),
  ).action(async (names: string[], options) =>
    run(options, async (context) => (await import("../commands/template/templates.ts")).setPublic(context, names, true)),
  );

  withCommonOptions(
    template
      .command("unpublish")
      .description("let only your team use them again; sandboxes that others have from them go on")
      .argument("<template...>", "their names")
      .addHelpText("after", examples("roost template unpublish web")),
  ).action(async (names: string[], options) =>
    run(options, async (context) => (await import("../commands/template/templates.ts")).setPublic(context, names, false)),
  );

  withCommonOptions(
    template
      .command("rm")
      .description("delete built templates that no sandbox uses, with all their builds")
      .argument("<template...>", "their names")
      .addHelpText("after", examples("roost template rm web")),
  ).action(async (names: string[], options) =>
    run(options, async (context) => (await import("../commands/template/templates.ts")).removeTemplates(context, names)),
  );
}

function defineTagCommands(template: Command, { run }: ProgramEnvironment): void {
  withCommonOptions(
    template
      .command("tag")
      .description("let tags of a template mean one of its builds from now on")
      .argument("<template>", "name, or name:tag for the build that this means")
      .argument("<tag...>", "tags to set")
      .option("--build <id>", "the build that they are to mean")
      .addHelpText("after", examples("roost template tag web:dev stable", "roost template tag web default --build 6f2c")),
  ).action(async (name: string, tags: string[], options) =>
    run(options, async (context) => (await import("../commands/template/tags.ts")).setTags(context, name, tags, options)),
  );

  withCommonOptions(
    template
      .command("untag")
      .description("remove tags of a template; what they meant stays")
      .argument("<template>", "its name")
      .argument("<tag...>", "tags to remove")
      .addHelpText("after", examples("roost template untag web dev")),
  ).action(async (name: string, tags: string[], options) =>
    run(options, async (context) => (await import("../commands/template/tags.ts")).removeTags(context, name, tags)),
  );
}

function defineBuildsCommands(template: Command, { run }: ProgramEnvironment): void {
  const reference = "a build's id or its beginning, or a template for its newest build";

  withCommonOptions(
    template
      .command("builds")
      .description("list builds, newest first")
      .argument("[template]", "only of this one")
      .addOption(new Option("--state <state>", "only those in this state").choices(buildStateNames))
      .option("-n, --limit <count>", "how many", parseInteger, 20)
      .option("-q, --quiet", "only ids")
      .addHelpText("after", examples("roost template builds", "roost template builds web --state failed")),
  ).action(async (name: string | undefined, options) =>
    run(options, async (context) => (await import("../commands/template/builds.ts")).listBuilds(context, name, options)),
  );

  withCommonOptions(
    template
      .command("logs")
      .description("what a build said")
      .argument("<build>", reference)
      .option("-f, --follow", "go on until it ends, and fail when it does")
      .option("-v, --verbose", "also what only helps to find mistakes")
      .addHelpText("after", examples("roost template logs web", "roost template logs -f 6f2c")),
  ).action(async (build: string, options) =>
    run(options, async (context) => (await import("../commands/template/builds.ts")).buildLogs(context, build, options)),
  );

  withCommonOptions(
    template
      .command("cancel")
      .description("end a build that is under way; what it has cached stays")
      .argument("<build>", reference)
      .addHelpText("after", examples("roost template cancel 6f2c")),
  ).action(async (build: string, options) =>
    run(options, async (context) => (await import("../commands/template/builds.ts")).cancelBuild(context, build)),
  );
}

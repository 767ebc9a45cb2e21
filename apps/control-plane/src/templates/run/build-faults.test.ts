import { poll } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";

import type { Database } from "../../db/database.ts";
import { BuildWorld, type ControlPlane } from "../../testing/build-world.ts";
import { firstTeam, own } from "../../testing/first-team.ts";
import { openTestDatabase } from "../../testing/test-database.ts";
import { claimBuild, findBuild } from "../build-store.ts";

let database: Database;
let world: BuildWorld;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => {
  world = await BuildWorld.start(database);
});
afterEach(async () => world[Symbol.asyncDispose]());

const run = (command: string) => ({ kind: "run" as const, command });
const image = { image: "app:1" };
const marker = "sleep 1000 # waits";

const until = async (what: string, is: () => boolean) => poll({ what, timeoutMs: 30_000, intervalMs: 2 }, () => (is() ? true : undefined));

interface Phase {
  readonly what: string;
  /** Holds the build there; resolves when it is there. What it answers lets it go on */
  readonly hold: () => Promise<() => void>;
}

/** Holds calls that wait for a promise which `set` is given. */
async function gate(what: string, set: (promise: Promise<void> | undefined) => void, isThere: () => boolean): Promise<() => void> {
  let release = () => {};
  set(new Promise((resolve) => (release = resolve)));
  await until(what, isThere);
  return () => {
    set(undefined);
    release();
  };
}

const createTemplateCalls = () => world.host.images.calls.get("createTemplate") ?? 0;
const setTemplateGate = (promise: Promise<void> | undefined) =>
  promise === undefined
    ? void world.host.images.gates.delete("createTemplate")
    : void world.host.images.gates.set("createTemplate", promise);

const recipe = {
  from: image,
  steps: [run("echo first"), run("echo second")],
  start_command: "true # starts",
  ready_command: "true # ready",
};

/** Each point at which a build can be caught. */
const phases: readonly Phase[] = [
  {
    what: "while its image is fetched",
    hold: () =>
      gate(
        "an import",
        (promise) => {
          world.host.imports.gate = promise;
        },
        () => world.host.imports.asked.length > 0,
      ),
  },
  {
    what: "while its sandbox is created",
    hold: () =>
      gate(
        "a create",
        (promise) => {
          world.host.createGate = promise;
        },
        () => world.host.sandboxes.size > 0,
      ),
  },
  ...["echo first", "echo second", "true # starts", "true # ready"].map((line) => ({
    what: `while it runs ${line}`,
    hold: async () => {
      const usual = world.guest.substitute;
      let isHeld = true;
      world.guest.substitute = (asked, user) => {
        const own = usual?.(asked, user);
        return isHeld && own?.args[1] === line ? { cmd: "/bin/sh", args: ["-c", marker] } : own;
      };
      await until(line, () => world.lines.includes(line) && world.guest.runningPids.length > 0);
      return () => {
        isHeld = false;
        world.guest.killAll();
      };
    },
  })),
  { what: "while its first layer is frozen", hold: () => gate("a layer", setTemplateGate, () => createTemplateCalls() > 0) },
  {
    what: "while its second layer is frozen",
    hold: async () => {
      await until("the first layer", () => createTemplateCalls() === 1 && world.lines.includes("echo second"));
      return gate("a layer", setTemplateGate, () => createTemplateCalls() === 2);
    },
  },
  {
    what: "while its memory is saved",
    hold: async () => {
      await until("the start command", () => world.lines.includes("true # starts"));
      return gate("the template", setTemplateGate, () => createTemplateCalls() === 3);
    },
  },
];

async function begin(builder: ControlPlane): Promise<string> {
  world.host.imports.registry.set(image.image, {});
  return builder.request(recipe);
}

describe("a build that is cancelled leaves nothing", () => {
  test.each(phases)("$what", async ({ hold }) => {
    const builder = world.controlPlane().start();
    const holding = hold();
    const id = await begin(builder);
    const release = await holding;
    await builder.services.builds.cancel(own(id));
    await builder.runner.round(); // sees that; what it waits for may be a call to the host, which goes on
    release();
    expect(await builder.ended(id)).toMatchObject({ state: "cancelled", failure: null });
    await world.isEmpty();
    await until("the removal of its template", () => !world.hostTemplates.some((name) => name.startsWith("build-")));
    expect((await world.logOf(id)).at(-1)).toBe("- the build was cancelled");
    await builder.runner.idle();
  });

  test("before its turn", async () => {
    const builder = world.controlPlane({ atOnceMax: 1 }).start();
    const holding = phases[0]?.hold();
    const first = await begin(builder);
    const release = await holding;
    const second = await begin(builder);
    expect((await builder.services.builds.cancel(own(second))).state).toBe("cancelled");
    release?.();
    expect((await builder.ended(first)).state).toBe("ready");
    expect(world.host.imports.asked.length).toBe(1);
  });
});

describe("when a control plane dies another one finishes its build", () => {
  test.each(phases)("$what", async ({ hold }) => {
    const before = world.controlPlane().start();
    const holding = hold();
    const id = await begin(before);
    const release = await holding;
    before.die();
    release();
    world.guest.killAll();
    const after = world.controlPlane().start();
    const row = await after.ended(id);
    expect(row.failure).toBeNull();
    expect(row).toMatchObject({ state: "ready", steps_done: 2 });
    await after.reconcile();
    await world.isEmpty();
    // What was frozen was not done again
    expect(world.lines.filter((line) => line === "echo first").length).toBeLessThanOrEqual(2);
    expect(world.hostTemplates.filter((name) => name.startsWith("build-"))).toEqual([row.host_template]);
  });

  test("what it had frozen comes from the cache", async () => {
    const before = world.controlPlane().start();
    const holding = phases[3]?.hold();
    const id = await begin(before);
    await holding;
    before.die();
    world.guest.killAll();
    world.ran.length = 0;
    const usual = world.guest.substitute;
    world.guest.substitute = (asked, user) => {
      const own = usual?.(asked, user);
      return own?.args[1] === marker ? { cmd: "/bin/true", args: [] } : own;
    };
    const row = await world.controlPlane().start().ended(id);
    expect(row).toMatchObject({ state: "ready", steps_done: 2, steps_cached: 1 });
    expect(world.lines).not.toContain("echo first");
  });

  test("its image is what was fetched before: nobody is asked for it again, who might want credentials that are gone", async () => {
    const before = world.controlPlane().start();
    const holding = phases[3]?.hold();
    const id = await begin(before);
    const release = await holding;
    before.die();
    release?.();
    world.guest.killAll();
    world.host.imports.registry.clear();
    world.host.imports.asked.length = 0;
    expect(await world.controlPlane().start().ended(id)).toMatchObject({ state: "ready", failure: null });
    expect(world.host.imports.asked).toEqual([]);
  });

  test("an image that the host has no more is asked for again, and says what is missing", async () => {
    const before = world.controlPlane().start();
    const holding = phases[3]?.hold();
    const id = await begin(before);
    const release = await holding;
    before.die();
    release?.();
    world.guest.killAll();
    world.host.imports.registry.clear();
    for (const name of world.hostTemplates) if (name.startsWith("image-")) world.host.images.templates.delete(name);
    const row = await world.controlPlane().start().ended(id);
    expect(row).toMatchObject({ state: "failed", failure: { step: "base", message: expect.stringMatching(/never stored/) as string } });
  });

  test("a shutdown ends its sandboxes at once, and leaves the build to the next one", async () => {
    const before = world.controlPlane().start();
    const holding = phases[2]?.hold();
    const id = await begin(before);
    const release = await holding;
    await before.stop();
    await world.isEmpty();
    release?.();
    expect((await findBuild(database.db, own(id)))?.state).toBe("building");
    const after = world.controlPlane({ isExclusive: false }).start();
    expect((await after.ended(id)).state).toBe("ready");
  });
});

test("a build whose claim is lost is left alone by who lost it, and what it had running is ended", async () => {
  const loser = world.controlPlane({ isExclusive: false }).start();
  const holding = phases[2]?.hold();
  const id = await begin(loser);
  await holding;
  const taken = await claimBuild(database.db, {
    claimedBy: "winner",
    now: new Date(Date.now() + 600_000),
    claimEnds: new Date(Date.now() + 1_200_000),
  });
  expect(taken?.id).toBe(id);
  loser.runner.poke();
  await loser.runner.idle();
  await world.isEmpty();
  expect(await findBuild(database.db, own(id))).toMatchObject({ state: "building", claimed_by: "winner" });
});

test("a sandbox of a build that is gone is ended", async () => {
  const builder = world.controlPlane();
  await builder.sandboxes.createForBuild(
    {
      teamId: firstTeam,
      buildId: "00000000-0000-4000-8000-000000000000",
      hostId: "host-1",
      hostTemplate: "base",
      vcpus: 1,
      memoryMib: 512,
    },
    new AbortController().signal,
  );
  expect(world.host.sandboxes.size).toBe(1);
  builder.start();
  await world.isEmpty();
});

describe("a lost sandbox", () => {
  const losing = (line: string, timesMax: number) => {
    const usual = world.guest.substitute;
    let times = 0;
    world.guest.substitute = (asked, user) => {
      const own = usual?.(asked, user);
      if (own?.args[1] !== line || times >= timesMax) return own;
      times += 1;
      for (const id of world.host.sandboxes.keys()) world.host.forget(id);
      for (const tunnel of world.host.openTunnels) tunnel.destroy();
      return own;
    };
  };

  test("is replaced once, from the last layer", async () => {
    losing("echo second", 1);
    const builder = world.controlPlane().start();
    const row = await builder.ended(await begin(builder));
    expect(row.failure).toBeNull();
    expect(row).toMatchObject({ state: "ready", steps_done: 2 });
    expect(world.lines.slice(0, 3)).toEqual(["echo first", "echo second", "echo second"]);
    expect((await world.logOf(row.id)).join("\n")).toMatch(/1 the sandbox that the build works in was lost/);
  });

  test("twice is a failure of the step", async () => {
    losing("echo second", 2);
    const builder = world.controlPlane().start();
    const row = await builder.ended(await begin(builder));
    expect(row).toMatchObject({ state: "failed", failure: { step: "1", message: expect.stringContaining("lost again") as string } });
    await builder.reconcile();
    await world.isEmpty();
  });

  test("when the template is made: once more", async () => {
    losing("true # ready", 1);
    const builder = world.controlPlane().start();
    expect(await builder.ended(await begin(builder))).toMatchObject({ state: "ready", failure: null });
  });
});

test("a host that is away for a moment is waited for", async () => {
  const usual = world.guest.substitute;
  world.guest.substitute = (asked, user) => {
    const own = usual?.(asked, user);
    if (own?.args[1] === "echo second") {
      world.host.isUnreachable = true;
      setTimeout(() => (world.host.isUnreachable = false), 500);
    }
    return own;
  };
  const builder = world.controlPlane().start();
  const row = await builder.ended(await begin(builder));
  expect(row).toMatchObject({ state: "ready", failure: null, steps_done: 2 });
  expect(world.lines.filter((line) => line === "echo first")).toHaveLength(1);
});

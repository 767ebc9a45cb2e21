import { expect, test } from "vitest";

import { usePlatform, useSandbox } from "../support/platform.ts";
import { openTerminal } from "../support/terminal.ts";
import { roostProgram } from "../support/test-platform.ts";

const platform = usePlatform();
const sandbox = useSandbox(platform);

test("a terminal runs top, follows the window's size, and ends with the shell's exit code", async () => {
  const { terminal, shows, ends, clear } = openTerminal(roostProgram, ["shell", sandbox().id], { environment: platform().environment });
  try {
    await shows(/user@\S+/);
    terminal.write("stty size\r");
    await shows(/\b30 100\b/);

    terminal.write("top\r");
    await shows(/load average/);
    await shows(/COMMAND/);
    clear();
    terminal.resize(132, 43);
    await shows(/PID/); // top redraws on SIGWINCH
    clear();
    terminal.write("q");
    await shows(/user@\S+/); // top, while it ends, drops what was typed ahead
    clear();
    terminal.write("stty size\r");
    await shows(/\b43 132\b/);

    terminal.write("exit 5\r");
    expect(await ends()).toBe(5);
  } finally {
    terminal.kill("SIGKILL");
  }
});

test("a terminal outlives its connection and is found again by its tag", async () => {
  const first = await sandbox().pty({ tag: "work", cols: 80, rows: 24 });
  await first.write("FOUND=again; echo ready-$((40+2))\r");
  for await (const event of first) if (event.type === "output" && event.data.toString().includes("ready-42")) break;
  first.close();

  const second = await sandbox().ptyConnect("work");
  await second.write("echo $FOUND-$((40+3))\r");
  let seen = "";
  for await (const event of second) {
    if (event.type === "output") seen += event.data.toString();
    if (seen.includes("again-43")) break;
  }
  expect(seen).toContain("again-43");
  const third = await sandbox().ptyConnect("work");
  await third.kill();
});

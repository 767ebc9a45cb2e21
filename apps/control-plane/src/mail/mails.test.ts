import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { minute, must, silentLogger } from "@roost/kit";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { FakeMailer } from "../testing/accounts-lab.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { FileMailer } from "./file-mailer.ts";
import { Mails } from "./mails.ts";

let database: Database;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => void (await database.db.deleteFrom("mail").execute()));

const clock = { now: Date.now() };
const mailsWith = (mailer: FakeMailer) =>
  new Mails({ db: database.db, mailer, publicUrl: "https://roost.example.org", log: silentLogger, now: () => new Date(clock.now) });
const text = { subject: "S", text: "T", html: "<p>H" };
const rows = () => database.db.selectFrom("mail").selectAll().execute();

test("a mail is sent if its transaction is committed, and then forgotten", async () => {
  const mailer = new FakeMailer();
  const mails = mailsWith(mailer);
  await expect(
    database.db.transaction().execute(async (transaction) => {
      await mails.enqueue(transaction, "a@example.org", text);
      throw new Error("undone");
    }),
  ).rejects.toThrow("undone");
  await database.db.transaction().execute((transaction) => mails.enqueue(transaction, "b@example.org", text));
  await mails.sendDue();
  expect(mailer.sent.map((mail) => mail.recipient)).toEqual(["b@example.org"]);
  expect(await rows()).toEqual([]);
});

test("a crash while a mail is sent loses none: another control plane sends it after the lease", async () => {
  const dying = new FakeMailer();
  let reached = () => {};
  const isSending = new Promise<void>((resolve) => (reached = resolve));
  dying.onSend = () => {
    reached();
    return new Promise(() => {}); // dies here, and never says
  };
  await mailsWith(dying).enqueue(database.db, "a@example.org", text);
  mailsWith(dying)
    .sendDue()
    .catch(() => undefined); // it is dead, and hears of nothing
  await isSending;
  const other = new FakeMailer();
  await mailsWith(other).sendDue();
  expect(other.sent, "not while the lease lasts").toEqual([]);
  clock.now += 5 * minute;
  await mailsWith(other).sendDue();
  expect(other.sent).toHaveLength(1);
  expect(await rows()).toEqual([]);
});

test("a crash after a mail was sent sends it again, with the same id", async () => {
  const mailer = new FakeMailer();
  const mails = mailsWith(mailer);
  await mails.enqueue(database.db, "a@example.org", text);
  const [before] = await rows();
  await mails.sendDue();
  await database.db
    .insertInto("mail")
    .values({ ...must(before, "the row"), time_next: new Date(clock.now) })
    .execute(); // the deletion was lost
  await mails.sendDue();
  expect(mailer.sent.map((mail) => mail.id)).toEqual([before?.id, before?.id]);
});

test("a mail server that is away is tried again, later each time, and given up in the end; then the secrets are forgotten", async () => {
  const mailer = new FakeMailer();
  mailer.onSend = async () => {
    throw new Error("no route to host");
  };
  const mails = mailsWith(mailer);
  await mails.enqueue(database.db, "a@example.org", text);
  const waits: number[] = [];
  for (let attempt = 1; attempt <= 18; attempt += 1) {
    await mails.sendDue();
    const [row] = await rows();
    expect(row).toMatchObject({ attempts: attempt, last_error: "no route to host" });
    if (row?.time_given_up === null) waits.push(row.time_next.getTime() - clock.now);
    clock.now = Math.max(clock.now, row?.time_next.getTime() ?? 0);
  }
  expect(waits).toHaveLength(17);
  expect(waits.slice(0, 4)).toEqual([30_000, 60_000, 120_000, 240_000]);
  expect(Math.max(...waits)).toBe(120 * minute);
  expect(await rows()).toMatchObject([{ text: "", html: "" }]);
  mailer.onSend = async () => undefined;
  clock.now += 100 * 60 * minute;
  await mails.sendDue();
  expect(mailer.sent, "not any more").toEqual([]);
});

test("one mail that cannot be sent holds up no other", async () => {
  const mailer = new FakeMailer();
  mailer.onSend = async (mail) => {
    if (mail.recipient === "bad@example.org") throw new Error("refused");
  };
  const mails = mailsWith(mailer);
  for (const recipient of ["bad@example.org", "good@example.org"]) await mails.enqueue(database.db, recipient, text);
  await mails.sendDue();
  expect(mailer.sent.map((mail) => mail.recipient)).toEqual(["good@example.org"]);
});

test("without a mail server, mails are files that only their owner can read, and the log has no secrets", async () => {
  const folder = await mkdtemp(join(tmpdir(), "roost-mail-"));
  try {
    const lines: string[] = [];
    const log = { ...silentLogger, info: (...parts: unknown[]) => void lines.push(JSON.stringify(parts)) } as never;
    const mailer = new FileMailer(join(folder, "mail"), log);
    expect(mailer.isReal).toBe(false);
    const secret = "5ec7e7".repeat(10);
    await mailer.send({ id: "1", recipient: "a@example.org", subject: "S", text: `token ${secret}`, html: "" });
    const [name = ""] = await readdir(join(folder, "mail"));
    const path = join(folder, "mail", name);
    expect(await readFile(path, "utf8")).toContain(secret);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect((await stat(join(folder, "mail"))).mode & 0o777).toBe(0o700);
    expect(lines.join()).toContain(path);
    expect(lines.join()).not.toContain(secret);
    for (let count = 0; count < 205; count += 1)
      await mailer.send({ id: `${count}`, recipient: "a@example.org", subject: "S", text: "", html: "" });
    expect(await readdir(join(folder, "mail"))).toHaveLength(200);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test("secrets of links stand behind the #, where no server sees them", () => {
  const { texts } = mailsWith(new FakeMailer());
  const token = "a".repeat(64);
  for (const mail of [texts.confirm(token), texts.reset(token), texts.invite("Team", "Ada", token)]) {
    expect(mail.text).toMatch(new RegExp(`https://roost\\.example\\.org/account/[a-z-]+#token=${token}`));
    expect(mail.html).toContain(`#token=${token}`);
    expect(mail.subject).not.toContain(token);
  }
});

test("a mail says what to do in a terminal, against which platform, also for whoever has no account yet", () => {
  const { texts } = mailsWith(new FakeMailer());
  const token = "0".repeat(64);
  const commandsIn = ({ text: said, html }: { readonly text: string; readonly html: string }) => {
    const commands = [...said.matchAll(/: (roost .*)$/gm)].map((match) => match[1] ?? "");
    for (const command of commands) expect(html).toContain(`<code>${command}</code>`);
    return commands;
  };
  const end = `${token} --url https://roost.example.org`;
  expect(commandsIn(texts.confirm(token))).toEqual([`roost account confirm ${end}`]);
  expect(commandsIn(texts.reset(token))).toEqual([`roost account reset-password ${end}`]);
  expect(commandsIn(texts.invite("Team", "Ada", token))).toEqual([
    `roost account accept ${end}`,
    `roost account signup --invitation ${end}`,
  ]);
  expect(commandsIn(texts.passwordChanged())).toEqual([]);
});

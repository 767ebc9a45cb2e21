import { once } from "node:events";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";

import { afterEach, beforeEach, expect, test } from "vitest";

import { SmtpMailer } from "./smtp-mailer.ts";

/** As much of a mail server as sending needs. */
class FakeMailServer {
  readonly envelopes: string[] = [];
  readonly messages: string[] = [];
  /** What it answers to a recipient */
  verdict = "250 ok";
  readonly #server: Server = createServer((socket) => this.#serve(socket));

  async listen(): Promise<string> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return `smtp://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  close(): void {
    this.#server.close();
  }

  #serve(socket: Socket): void {
    let data: string | undefined;
    let text = "";
    const say = (line: string) => socket.write(`${line}\r\n`);
    say("220 fake");
    socket.on("error", () => undefined);
    socket.on("data", (chunk) => {
      text += chunk.toString("utf8");
      for (let end = text.indexOf("\r\n"); end >= 0; end = text.indexOf("\r\n")) {
        const line = text.slice(0, end);
        text = text.slice(end + 2);
        if (data !== undefined) {
          if (line !== ".") data += `${line}\n`;
          else {
            this.messages.push(data);
            data = undefined;
            say("250 taken");
          }
        } else if (line === "DATA") {
          data = "";
          say("354 go on");
        } else if (/^(MAIL|RCPT)/.test(line)) {
          this.envelopes.push(line);
          say(line.startsWith("RCPT") ? this.verdict : "250 ok");
        } else if (line === "QUIT") socket.end("221 bye\r\n");
        else say("250 ok");
      }
    });
  }
}

let server: FakeMailServer;
let mailer: SmtpMailer;
beforeEach(async () => {
  server = new FakeMailServer();
  mailer = new SmtpMailer(await server.listen(), "Roost <noreply@example.org>");
});
afterEach(() => {
  mailer.close();
  server.close();
});

const mail = {
  id: "the-id",
  recipient: "ada@example.org",
  subject: "Größe\r\nBcc: eve@example.org",
  text: "the text",
  html: "<p>the page",
};

test("a mail arrives as text and page, with an id that stays, for its recipient alone", async () => {
  await mailer.send(mail);
  expect(server.envelopes).toEqual(["MAIL FROM:<noreply@example.org>", "RCPT TO:<ada@example.org>"]);
  const [message = ""] = server.messages;
  expect(message).toContain("Message-ID: <the-id@roost>");
  expect(message).toContain("Auto-Submitted: auto-generated");
  expect(message).toContain("the text");
  expect(message).toContain("<p>the page");
  expect(message).not.toMatch(/^Bcc:/m);
});

test("a recipient that looks like several is one, or none", async () => {
  await mailer.send({ ...mail, recipient: "ada@example.org, eve@example.org" }).catch(() => undefined);
  expect(server.envelopes.filter((line) => line.includes("eve@example.org>"))).toEqual([]);
});

test("a refusal and a server that is away are told, so that the mail is tried again", async () => {
  server.verdict = "451 later";
  await expect(mailer.send(mail)).rejects.toThrow(/451/);
  expect(server.messages).toEqual([]);
  const away = new SmtpMailer("smtp://127.0.0.1:1", "noreply@example.org");
  await expect(away.send(mail)).rejects.toThrow(/ECONNREFUSED/);
  away.close();
});

/** What a mail says. */
export interface MailText {
  readonly subject: string;
  readonly text: string;
  readonly html: string;
}

/** One thing that can be done about a mail: by a command, or by a page where the platform has some. */
interface Action {
  readonly label: string;
  readonly url: string;
  /** With when to use each, where there are several */
  readonly commands: readonly { readonly when: string; readonly command: string }[];
}

export type MailTexts = ReturnType<typeof createMailTexts>;

/**
 * The mails that accounts send. Secrets are behind the `#` of a link: they get into no server's log and no `Referer`, and what fetches links ahead
 * of people does not use them up. Commands name the platform: whoever reads the mail may have none on their machine. What users chose (names) is cut to one line, and cannot be a link of its own.
 */
export function createMailTexts(publicUrl: string) {
  const action = (label: string, page: string, token: string, commands: Readonly<Record<string, string>>): Action => ({
    label,
    url: `${publicUrl}/account/${page}#token=${token}`,
    commands: Object.entries(commands).map(([when, command]) => ({
      when,
      command: `roost account ${command} ${token} --url ${publicUrl}`,
    })),
  });
  return {
    confirm: (token: string): MailText =>
      compose(
        "Confirm your e-mail address",
        ["Somebody, hopefully you, signed up at Roost with this address. Confirm it within an hour, with the password chosen then."],
        action("Confirm", "confirm", token, { "In a terminal": "confirm" }),
        "If it was not you, do nothing: there is no account until the address is confirmed.",
      ),
    accountExists: (): MailText =>
      compose(
        "You have an account already",
        ["Somebody, hopefully you, tried to sign up at Roost with this address, which has an account. Sign in, or reset the password."],
        undefined,
        "If it was not you, do nothing.",
      ),
    reset: (token: string): MailText =>
      compose(
        "Reset your password",
        ["Somebody, hopefully you, asked to replace the password of your account at Roost. That can be done once, within 30 minutes."],
        action("Choose a new password", "reset", token, { "In a terminal": "reset-password" }),
        "If it was not you, do nothing: the password stays as it is.",
      ),
    passwordChanged: (): MailText =>
      compose(
        "Your password was changed",
        ["The password of your account at Roost was changed, and all other sessions were ended."],
        undefined,
        "If it was not you, reset the password now, and tell whoever runs the platform.",
      ),
    invite: (team: string, inviter: string, token: string): MailText =>
      compose(
        `Join the team ${oneLine(team)}`,
        [
          `${oneLine(inviter)} asks you to join the team “${oneLine(team)}” at Roost. You can accept within seven days, with an account of this address.`,
        ],
        action("Join", "invitation", token, {
          "In a terminal, signed in with an account of this address": "accept",
          "Without an account, to make one and join": "signup --invitation",
        }),
        "If you do not know what this is, do nothing.",
      ),
  };
}

function compose(subject: string, paragraphs: readonly string[], action: Action | undefined, end: string): MailText {
  const commands = action?.commands ?? [];
  const page = action === undefined ? [] : [`${action.label} in a browser, where this platform has a dashboard: ${action.url}`];
  const what = [...commands.map(({ when, command }) => `${when}: ${command}`), ...page];
  const link =
    commands.map(({ when, command }) => `<p>${escapeHtml(when)}: <code>${escapeHtml(command)}</code></p>`).join("") +
    (action === undefined
      ? ""
      : `<p><a href="${escapeHtml(action.url)}">${escapeHtml(action.label)} in a browser</a>, where this platform has a dashboard.</p>`);
  const toHtml = (text: string) => `<p>${escapeHtml(text)}</p>`;
  return {
    subject,
    text: `${[...paragraphs, ...what, end].join("\n\n")}\n`,
    html: `<!doctype html><meta charset="utf-8"><title>${escapeHtml(subject)}</title>${paragraphs.map(toHtml).join("")}${link}${toHtml(end)}`,
  };
}

/** Dots of what looks like a link get something invisible behind them: mail programs make links of plain text. */
function oneLine(text: string): string {
  return text
    .replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, " ")
    .replaceAll(/[./:](?=\S)/g, "$&\u2060")
    .slice(0, 100);
}

const entities: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

function escapeHtml(text: string): string {
  return text.replaceAll(/[&<>"']/g, (character) => entities[character] ?? "");
}

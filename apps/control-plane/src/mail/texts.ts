/** What a mail says. */
export interface MailText {
  readonly subject: string;
  readonly text: string;
  readonly html: string;
}

/** One thing that can be done about a mail: by a page, or by a command where there is none. */
interface Action {
  readonly label: string;
  readonly url: string;
  readonly command: string;
}

export type MailTexts = ReturnType<typeof createMailTexts>;

/**
 * The mails that accounts send. Secrets are behind the `#` of a link: they get into no server's log and no `Referer`, and what fetches links ahead
 * of people does not use them up. What users chose (names) is cut to one line, and cannot be a link of its own.
 */
export function createMailTexts(publicUrl: string) {
  const action = (label: string, page: string, command: string, token: string): Action => ({
    label,
    url: `${publicUrl}/account/${page}#token=${token}`,
    command: `roost account ${command} ${token}`,
  });
  return {
    confirm: (token: string): MailText =>
      compose(
        "Confirm your e-mail address",
        ["Somebody, hopefully you, signed up at Roost with this address. Confirm it within an hour, with the password chosen then."],
        action("Confirm", "confirm", "confirm", token),
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
        action("Choose a new password", "reset", "reset-password", token),
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
        action("Join", "invitation", "accept", token),
        "If you do not know what this is, do nothing.",
      ),
  };
}

function compose(subject: string, paragraphs: readonly string[], action: Action | undefined, end: string): MailText {
  const what = action === undefined ? [] : [`${action.label}: ${action.url}`, `Or in a terminal: ${action.command}`];
  const link =
    action === undefined
      ? ""
      : `<p><a href="${escapeHtml(action.url)}">${escapeHtml(action.label)}</a></p><p>Or in a terminal: <code>${escapeHtml(action.command)}</code></p>`;
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

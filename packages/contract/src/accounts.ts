import { z } from "zod";

import { nameLengthMax } from "./limits.ts";
import { scopeSchema } from "./scopes.ts";
import { teamIdSchema, teamRoleSchema } from "./teams.ts";

/** People who sign in: their accounts and sessions. */

export const userIdSchema = z
  .string()
  .regex(/^u[a-z0-9]{20}$/, "a user's id is a u and 20 lower-case letters and digits")
  .describe("User id");

/** RFC 5321 has no longer ones */
const emailLengthMax = 254;
/** Below this a password can be guessed online in time; above, hashing it is somebody's way of costing us time */
export const passwordLengthMin = 10;
export const passwordLengthMax = 256;

export const emailSchema = z
  .string()
  .trim()
  .toLowerCase()
  .max(emailLengthMax)
  .pipe(z.email("must be an e-mail address such as ada@example.org"))
  .describe("E-mail address; capitals do not matter");
export const passwordSchema = z
  .string()
  .min(passwordLengthMin, `must have at least ${passwordLengthMin} characters`)
  .max(passwordLengthMax, `must have at most ${passwordLengthMax} characters`)
  .describe("Password");
/** What is compared with a password: one that was allowed once must be accepted ever after. */
const givenPasswordSchema = z.string().min(1).max(passwordLengthMax).describe("Password");

/** Control characters and angle brackets: a name is shown in mails, terminals and pages of others */
const nameCharacters = /^[^\p{Cc}\p{Cf}<>]+$/u;
export const userNameSchema = z
  .string()
  .trim()
  .min(1)
  .max(nameLengthMax)
  .regex(nameCharacters, "must have no control characters and neither `<` nor `>`")
  .describe("For people");

/** Secrets that are sent by mail, or exchanged for a session: 256 bits */
export const accountTokenSchema = z
  .string()
  .regex(/^[0-9a-f]{64}$/, "must be the 64 hexadecimal digits of a link or mail")
  .describe("Works once, and not for long");
/** What makes whoever signs up first the platform's admin: 128 bits, which the platform writes to this file of its state folder */
export const setUpCodeSchema = z.string().regex(/^[0-9a-f]{32}$/, "must be the 32 hexadecimal digits of the file `setup-code`");
export const setUpCodeFile = "setup-code";
/** What a signed-in program sends as `Authorization: Bearer` */
export const sessionTokenPattern = /^session_[0-9a-f]{64}$/;

/** How a session is handed out: pages get a cookie that no script of theirs can read, programs a token. */
const deliverSchema = z
  .enum(["cookie", "token"])
  .default("token")
  .describe("`cookie`: for browsers, no script can read it; `token`: in the answer, for `Authorization: Bearer`");

export const signUpModes = ["open", "invite", "closed"] as const;
export type SignUpMode = (typeof signUpModes)[number];

export const userSchema = z
  .object({
    id: userIdSchema,
    email: z.string(),
    name: z.string(),
    is_admin: z.boolean().describe("Of the platform"),
    created_at: z.iso.datetime(),
  })
  .meta({ id: "User" });
export type User = z.infer<typeof userSchema>;

export const signedInSchema = z
  .object({
    user: userSchema,
    team_id: teamIdSchema.nullable().describe("That the session acts for at first; null: the user is in none"),
    token: z.string().nullable().describe("null: it is in the cookie"),
    expires_at: z.iso.datetime().describe("Of the session, unless it is used before"),
  })
  .meta({ id: "SignedIn" });
export type SignedIn = z.infer<typeof signedInSchema>;

export const signInMethodsSchema = z
  .object({
    sign_up: z.enum(signUpModes).describe("`invite`: only with an invitation"),
    is_first: z.boolean().describe("There is no admin yet: whoever signs up with the platform's set-up code becomes it"),
    has_mail: z.boolean().describe("Mails are sent: addresses are confirmed, passwords can be reset"),
    github: z.boolean().describe("Signing in with GitHub is set up"),
  })
  .meta({ id: "SignInMethods" });
export type SignInMethods = z.infer<typeof signInMethodsSchema>;

export const signUpBodySchema = z
  .strictObject({
    email: emailSchema,
    password: passwordSchema,
    name: userNameSchema,
    invitation: accountTokenSchema.optional().describe("Token of an invitation to this address"),
    setup_code: setUpCodeSchema
      .optional()
      .describe("Of the platform's state folder: makes the first who signs up with it the platform's admin; after that it does nothing"),
    deliver: deliverSchema,
  })
  .meta({ id: "SignUp" });
export type SignUpInput = z.input<typeof signUpBodySchema>;
export type SignUpBody = z.output<typeof signUpBodySchema>;
/** A union would tell by its form who has an account already; this tells by its status only what is configured. */
export const signUpSchema = z
  .object({
    state: z.enum(["signed_in", "confirm"]).describe("`confirm`: a mail is on its way to the address; it says how to go on"),
    signed_in: signedInSchema.nullable(),
  })
  .meta({ id: "SignUpAnswer" });
export type SignUpAnswer = z.infer<typeof signUpSchema>;

export const confirmBodySchema = z
  .strictObject({
    token: accountTokenSchema,
    password: givenPasswordSchema.describe("The one that was chosen at sign-up: whoever reads the mail may not be who chose it"),
    deliver: deliverSchema,
  })
  .meta({ id: "ConfirmAddress" });
export type ConfirmInput = z.input<typeof confirmBodySchema>;

export const loginBodySchema = z
  .strictObject({ email: emailSchema, password: givenPasswordSchema, deliver: deliverSchema })
  .meta({ id: "Login" });
export type LoginInput = z.input<typeof loginBodySchema>;
export type LoginBody = z.output<typeof loginBodySchema>;

export const askResetBodySchema = z.strictObject({ email: emailSchema }).meta({ id: "AskPasswordReset" });
export const resetPasswordBodySchema = z
  .strictObject({ token: accountTokenSchema, new_password: passwordSchema })
  .meta({ id: "ResetPassword" });

export const githubQuerySchema = z.strictObject({
  return_to: z
    .string()
    .max(2048)
    .default("/")
    .describe("Where to go when it is done: a path of this platform, or `http://127.0.0.1:PORT/…` of a program"),
  challenge: z
    .string()
    .regex(/^[A-Za-z0-9_-]{43}$/, "must be the base64url of a SHA-256")
    .optional()
    .describe("Needed by programs: SHA-256 of the `verifier` that they exchange the code with"),
  invitation: accountTokenSchema.optional(),
  connect: z.enum(["0", "1"]).default("0").describe("1: connect GitHub to the account that is signed in"),
});
export type GithubQuery = z.output<typeof githubQuerySchema>;
/** GitHub may send more than it says. */
export const githubCallbackQuerySchema = z.object({
  code: z.string().max(512).optional(),
  state: z.string().max(512).optional(),
  error: z.string().max(512).optional(),
  error_description: z.string().max(2048).optional(),
  error_uri: z.string().max(2048).optional(),
  iss: z.string().max(2048).optional(),
});
export const exchangeBodySchema = z
  .strictObject({
    code: accountTokenSchema,
    verifier: z
      .string()
      .regex(/^[A-Za-z0-9._~-]{43,128}$/, "must be 43 to 128 letters, digits, '-', '.', '_' or '~'")
      .describe("Whose SHA-256 was the `challenge`"),
  })
  .meta({ id: "ExchangeCode" });

export const membershipSchema = z.object({ id: teamIdSchema, name: z.string(), slug: z.string(), role: teamRoleSchema });
export type Membership = z.infer<typeof membershipSchema>;

export const meSchema = z
  .object({
    actor: z.object({ kind: z.enum(["api_key", "user", "host", "system"]), id: z.string(), name: z.string() }),
    user: userSchema.nullable().describe("null: an API key"),
    has_password: z.boolean(),
    providers: z.array(z.string()).describe("Connected to the account: `github`"),
    team_id: teamIdSchema.nullable().describe("That this request acted for; null: the user is in none"),
    role: teamRoleSchema.nullable().describe("In that team; null: an API key"),
    scopes: z.array(scopeSchema),
    is_admin: z.boolean().describe("Of the platform"),
    teams: z.array(membershipSchema).describe("Of the user, by name; of an API key its own"),
  })
  .meta({ id: "Me" });
export type Me = z.infer<typeof meSchema>;

export const updateMeBodySchema = z.strictObject({ name: userNameSchema }).meta({ id: "UpdateMe" });
export const changePasswordBodySchema = z
  .strictObject({
    current_password: givenPasswordSchema.optional().describe("Needed where there is one"),
    new_password: passwordSchema,
  })
  .meta({ id: "ChangePassword" });
export type ChangePasswordInput = z.input<typeof changePasswordBodySchema>;
export const deleteMeBodySchema = z
  .strictObject({ confirmation: z.string().max(emailLengthMax).describe("The account's e-mail address") })
  .meta({ id: "DeleteMe" });
export const switchTeamBodySchema = z.strictObject({ team_id: teamIdSchema }).meta({ id: "SwitchTeam" });

export const sessionIdSchema = z
  .string()
  .regex(/^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, "must be the id of a session, a UUID")
  .describe("Id of a session");
export const sessionSchema = z
  .object({
    id: sessionIdSchema,
    is_current: z.boolean(),
    client: z.string().describe("What it said it is when it signed in"),
    address: z.string().nullable().describe("Where it signed in from"),
    created_at: z.iso.datetime(),
    last_used_at: z.iso.datetime().describe("To some minutes"),
    expires_at: z.iso.datetime(),
  })
  .meta({ id: "Session" });
export type Session = z.infer<typeof sessionSchema>;
export const sessionListSchema = z.object({ sessions: z.array(sessionSchema).describe("Newest first") }).meta({ id: "SessionList" });

export const providerSchema = z.enum(["github"]).describe("Who else vouches for a user");

/** Limits of what users may ask. Each request above one gets a 4xx that names the field, the value and the limit. */
const KiB = 1024;
const MiB = 1024 * KiB;

/** Virtual CPUs of a sandbox; above the host's cores they only contend */
export const vcpusMax = 16;
export const vcpusDefault = 1;
/** Guest memory in `MiB`; below the minimum Debian and the guest agent do not fit */
export const memoryMibMin = 256;
export const memoryMibMax = 64 * 1024;
export const memoryMibDefault = 512;
/**
 * What a VM needs beside its guest's memory in `MiB`: the VMM's own code, heap, translation buffer and page tables.
 * Measured at 86 MiB for an idle guest under TCG. Hosts set it aside for each VM, and placement counts with it.
 */
export const vmOverheadMib = 96;
/** Inactivity timeout in `s`: 30 days; 0 means never */
export const timeoutSecMax = 30 * 24 * 3600;
/** Default inactivity timeout in `s`: a forgotten sandbox is paused, a used one never is */
export const timeoutSecDefault = 1800;

/** Time between checkpoints in `s`: below the minimum a sandbox would do little else than being saved; 0 means none */
export const checkpointIntervalSecMin = 10;
export const checkpointIntervalSecMax = 24 * 3600;
/** Longest time in `s` that a sandbox may be given to run in one go: a year */
export const expirySecMax = 365 * 24 * 3600;
/** Children of one fork: each needs memory of its own, and all of them are waited for */
export const forkCountMax = 100;
/** Kept for users of a sandbox: `notice` */
export const noticeLengthMax = 1024;

/** Of a name, where nothing else is said, in characters */
export const nameLengthMax = 64;
/** Name of a template or snapshot with its tag, in characters */
export const templateNameLengthMax = 128;
/** The same with the namespace of a team before it */
export const templateReferenceLengthMax = templateNameLengthMax + 64;
/** Of a recipe: steps of each stage, stages, Debian packages, and characters of one command (as `commandLengthMax`, less what wraps it) */
export const recipeStepsMax = 500;
export const recipeStagesMax = 16;
export const recipePackagesMax = 500;
export const stepCommandLengthMax = 64 * KiB;
/** Tags that one build sets */
export const buildTagsMax = 32;
/** Lines of one build's log that are kept, and the bytes of one; what comes after is cut, which the log says */
export const buildLogLinesMax = 100_000;
export const buildLogLineBytesMax = 4 * KiB;
export const metadataEntriesMax = 32;
export const metadataKeyLengthMax = 64;
export const metadataValueLengthMax = 1024;
export const envsEntriesMax = 256;
export const envNameLengthMax = 256;
/** Linux refuses single strings above 128 KiB (MAX_ARG_STRLEN) */
export const envValueLengthMax = 128 * KiB - 1;

/** JSON request body in `bytes` */
export const jsonBodyBytesMax = 1 * MiB;
export const argsMax = 4096;
export const commandLengthMax = 128 * KiB - 1;
/** PATH_MAX less its terminator, in bytes */
export const pathLengthMax = 4095;
/** A user name inside the guest (useradd(8)) */
export const userNameLengthMax = 32;
/** Run time of a foreground command in `s` */
export const execTimeoutSecDefault = 30;
export const execTimeoutSecMax = 24 * 3600;
/** Output of a foreground exec in `bytes`, both streams together; more is for `exec/stream` */
export const execOutputBytesMax = 8 * MiB;
/** One uploaded file in `bytes`; the guest's disk is the tighter limit for most */
export const fileBytesMax = 64 * 1024 * MiB;
/** Entries of one file listing */
export const listEntriesMax = 100_000;
export const listDepthMax = 64;
/** One WebSocket message in `bytes` */
export const webSocketMessageBytesMax = 1 * MiB;
/** Bytes that may wait for a slow WebSocket reader before its source is paused */
export const webSocketBufferedBytesMax = 1 * MiB;
export const ptyColsMax = 1000;
export const ptyRowsMax = 1000;
export const tagLengthMax = 128;

/** Entries of each list of a network policy: each is an element of a set in the kernel, or a name compared for each connection */
export const networkEntriesMax = 1000;
/** Mbit per `s` that a sandbox may be limited to: more than a host's card has */
export const mbitPerSecMax = 100_000;
/** Connections that one guest may have open at once: each is an entry of the connection table that all sandboxes of a host share */
export const guestConnectionsMax = 65_536;
export const guestConnectionsPerSecMax = 100_000;
/** Headers that are set on a guest's requests: domains of a policy, characters of one, headers of each, characters of a name and of a value. As E2B has them */
export const headerRuleDomainsMax = 10;
export const headerRuleDomainLengthMax = 128;
export const headersPerRuleMax = 20;
export const headerNameLengthMax = 64;
export const headerValueLengthMax = 2048;
/** User name and password of an egress proxy in bytes each: RFC 1929 has one byte for their length */
export const egressProxyCredentialBytesMax = 255;
/** A host name and a port, with room for `${PORT}` */
export const maskRequestHostLengthMax = 270;

/** Events that are kept: the newest this many, and none older than this in `s` */
export const eventsKeptMax = 100_000;
export const eventsKeptSec = 30 * 24 * 3600;

/** API keys of a team that are not revoked: lists are not paged */
export const apiKeysPerTeamMax = 1_000;
/** Life of an API key that expires, in `s`: a minute to ten years */
export const apiKeyExpirySecMin = 60;
export const apiKeyExpirySecMax = 10 * 365 * 24 * 3600;

export const pageSizeDefault = 100;
export const pageSizeMax = 1000;

/** Ports of a sandbox for which something else is said than for its others: more are a range, and nobody needs one */
export const portExceptionsMax = 256;
/** Life of a signed URL of a port in `s`: long enough to be opened, short enough that one that was passed on by accident is soon worth nothing */
export const signedPortUrlSecMin = 1;
export const signedPortUrlSecDefault = 3_600;
export const signedPortUrlSecMax = 7 * 24 * 3_600;

/*
 * launcher: starts, signals and reaps the processes of the guest agent.
 *
 * Why it exists: a process of the guest needs real pipes (not the socket pairs Node gives, on which opening /dev/stdout
 * fails), all of its ids (libuv drops supplementary groups), its own session, and a start that does not copy the page
 * tables of a 60 MiB Node process. A static binary of a few pages that vforks gives all of that on any root file
 * system. It also makes the guest a sandbox of its own after a restore (BECOME: entropy, clock, host name, files), for
 * which Node has no system calls, and where each line of JavaScript costs ten times one of these; and resizes terminals.
 *
 * It speaks with the agent, which is its only client and trusted, over a stream socket on fd 3, all integers little
 * endian. To it: u32 length, u32 type, body. From it: records of six u32: type, id, and four values.
 * Pipe ends stay open here until the agent, which opens them through /proc/<launcher>/fd/N, sends RELEASE; so does
 * the slave side of a terminal, which STARTED names in the place of standard input.
 * When the agent goes away the socket ends and so does the launcher; running processes become init's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { START = 1, KILL, RELEASE, RESIZE, BECOME, SCAN };
enum { STARTED = 1, FAILED, EXITED, DONE, LISTENER };
enum { STAGE_SETUP = 1, STAGE_CWD, STAGE_EXEC };
enum { FLAG_STDIN = 1, FLAG_TERMINAL = 2, FLAG_CWD_OPTIONAL = 4 };

#define CONTROL 3
#define FRAME_MAX (8u << 20) /* more than the kernel takes as arguments and environment */
#define PROCESSES_MAX 4096   /* the agent's own limit is lower */
#define GROUPS_MAX 256

static struct { pid_t pid; int master; } table[PROCESSES_MAX]; /* pid 0: free; master -1: no terminal */
static int agent_pidfd = -1;
static int scan_timer = -1; /* ticks when it is time to look for loopback listeners */
static uint32_t scan_ms, quiet_ticks; /* between two ticks; ticks since a process of ours last ran */
static int running; /* processes of ours */
static unsigned char loopback[65536]; /* per port: 1 listens on 127.0.0.1, 2 on ::1, as told to the agent */

static void read_all(void *into, size_t length) {
    for (char *at = into; length > 0;) {
        ssize_t got = read(CONTROL, at, length);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) _exit(0); /* the agent is gone */
        at += got, length -= (size_t)got;
    }
}

static void tell(uint32_t type, uint32_t id, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    uint32_t record[6] = {type, id, a, b, c, d};
    const char *at = (const char *)record;
    for (size_t left = sizeof record; left > 0;) {
        ssize_t put = write(CONTROL, at, left);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) _exit(0);
        at += put, left -= (size_t)put;
    }
}

static int find(pid_t pid) {
    for (int i = 0; i < PROCESSES_MAX; i++) if (table[i].pid == pid) return i;
    return -1;
}

struct start {
    uint32_t id, flags, uid, gid, group_count, master, cols, rows, argc, envc;
    gid_t groups[GROUPS_MAX];
    const char *cwd;
    char **argv, **envp;
};

/* Written by the child before it dies: after vfork both share memory. */
static volatile uint32_t failed_stage, failed_errno;

static _Noreturn void child_fail(uint32_t stage) {
    failed_errno = (uint32_t)errno;
    failed_stage = stage;
    _exit(127);
}

/* In the vforked child: raw system calls for ids, since glibc's wrappers touch thread state the parent shares. */
static _Noreturn __attribute__((noinline)) void child_run(const struct start *s, int in, int out, int err) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    if (s->flags & FLAG_TERMINAL && ioctl(in, TIOCSCTTY, 0) < 0) child_fail(STAGE_SETUP);
    if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0) child_fail(STAGE_SETUP);
    int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC); /* the agent outlives what it runs */
    if (score >= 0) { (void)!write(score, "100", 3); close(score); }
    if (syscall(SYS_setgroups, s->group_count, s->groups) < 0) child_fail(STAGE_SETUP);
    if (syscall(SYS_setresgid, s->gid, s->gid, s->gid) < 0) child_fail(STAGE_SETUP);
    if (syscall(SYS_setresuid, s->uid, s->uid, s->uid) < 0) child_fail(STAGE_SETUP);
    if (chdir(s->cwd) < 0 && !(s->flags & FLAG_CWD_OPTIONAL && chdir("/") == 0)) child_fail(STAGE_CWD);
    environ = s->envp; /* execvp looks the program up in the PATH of the new environment */
    execvp(s->argv[0], s->argv);
    child_fail(STAGE_EXEC);
}

/* The terminal's slave; `*master` becomes our handle on the agent's master side. */
static int open_terminal(const struct start *s, int *master) {
    struct winsize size = {.ws_col = (unsigned short)s->cols, .ws_row = (unsigned short)s->rows};
    struct termios modes;
    int unlocked = 0;
    *master = (int)syscall(SYS_pidfd_getfd, agent_pidfd, (int)s->master, 0);
    if (*master < 0 || ioctl(*master, TIOCSPTLCK, &unlocked) < 0) return -1;
    int slave = ioctl(*master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0) return -1;
    ioctl(*master, TIOCSWINSZ, &size);
    if (tcgetattr(slave, &modes) == 0) { modes.c_iflag |= IUTF8; tcsetattr(slave, TCSANOW, &modes); }
    if (fchown(slave, s->uid, (gid_t)-1) < 0 || fchmod(slave, 0620) < 0) { close(slave); return -1; }
    return slave;
}

/* Without a process of ours for this many ticks little happens, and the idle guest should cost little: tick more slowly. */
#define QUIET_TICKS 30
#define QUIET_FACTOR 5

static void set_scan_timer(uint32_t ms) {
    struct timespec every = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    timerfd_settime(scan_timer, 0, &(struct itimerspec){every, every}, NULL);
}

static void start(const struct start *s) {
    int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1}, master = -1, slot = find(0), ok = slot >= 0;
    errno = EAGAIN;
    if (ok && s->flags & FLAG_TERMINAL) ok = (in[0] = open_terminal(s, &master)) >= 0;
    else if (ok) {
        if (s->flags & FLAG_STDIN) ok = pipe2(in, O_CLOEXEC) == 0;
        else ok = (in[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;
        ok = ok && pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0;
        /* owned by the user, so that opening /dev/stdout works for more than root */
        ok = ok && fchown(out[1], s->uid, s->gid) == 0 && fchown(err[1], s->uid, s->gid) == 0;
        ok = ok && (in[1] < 0 || fchown(in[0], s->uid, s->gid) == 0);
    }
    failed_stage = ok ? 0 : STAGE_SETUP, failed_errno = (uint32_t)errno;
    pid_t pid = -1;
    if (ok) {
        pid = vfork();
        if (pid == 0) child_run(s, in[0], s->flags & FLAG_TERMINAL ? in[0] : out[1], s->flags & FLAG_TERMINAL ? in[0] : err[1]);
        if (pid < 0) failed_stage = STAGE_SETUP, failed_errno = (uint32_t)errno;
    }
    if (failed_stage == 0 && master >= 0) {
        /* The slave stays open until RELEASE: while it is, the agent can read to the last byte without a hangup. */
        in[1] = in[0], in[0] = -1;
    }
    close(in[0]), close(out[1]), close(err[1]); /* closing -1 does nothing */
    if (failed_stage == 0) {
        table[slot].pid = pid, table[slot].master = master, running++;
        if (quiet_ticks >= QUIET_TICKS) set_scan_timer(scan_ms);
        quiet_ticks = 0;
        tell(STARTED, s->id, (uint32_t)pid, (uint32_t)in[1], (uint32_t)out[0], (uint32_t)err[0]);
    } else {
        close(in[1]), close(out[0]), close(err[0]), close(master);
        tell(FAILED, s->id, failed_stage, failed_errno, 0, 0);
    }
}

static void reap(void) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        int slot = find(pid);
        if (slot < 0) continue; /* its exec failed */
        close(table[slot].master);
        table[slot].pid = 0, running--;
        tell(EXITED, (uint32_t)pid, (uint32_t)status, 0, 0, 0);
    }
}

static char text[65536]; /* of one file of /proc/net at a time */

static int read_text(const char *path) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = 0, got;
    if (file < 0) return 0;
    while (length < (ssize_t)sizeof text - 1 && (got = read(file, text + length, sizeof text - 1 - (size_t)length)) > 0) length += got;
    close(file);
    text[length] = 0;
    return 1;
}

/* One of /proc/net/tcp and tcp6: marks ports that listen on the loopback address. Listeners come first there. */
static void scan_table(const char *path, const char *address, unsigned char mark, unsigned char *seen) {
    if (!read_text(path)) return;
    size_t width = strlen(address);
    for (char *line = strchr(text, '\n'); line != NULL && line[1] != 0; line = strchr(line + 1, '\n')) {
        char *local = strchr(line, ':'); /* "   0: 0100007F:1F90 00000000:0000 0A ..." */
        if (local == NULL || strlen(local) < width + 2) break;
        char *port = local + 2 + width, *state = strchr(port, ' ');
        state = state == NULL ? NULL : strchr(state + 1, ' ');
        if (state == NULL || strncmp(state, " 0A", 3) != 0) break;
        if (strncmp(local + 2, address, width) == 0) seen[strtoul(port + 1, NULL, 16) & 0xffff] |= mark;
    }
}

/* Number of TCP sockets in use: it changes when one begins or stops to listen. */
static unsigned long sockets_in_use(const char *path, const char *field) {
    char *found = read_text(path) ? strstr(text, field) : NULL;
    return found == NULL ? 0 : strtoul(found + strlen(field), NULL, 10);
}

/*
 * The tables of /proc/net cost 5 ms each under emulation, the kernel's counters a fiftieth: so look at those, and at
 * the tables when they changed. Now and then at the tables anyway, as one socket may have come for another.
 */
#define TICKS_BETWEEN_SCANS 10
static void scan(void) {
    static unsigned char seen[65536];
    static unsigned long ipv4_before, ipv6_before;
    static int ticks;
    quiet_ticks = running > 0 ? 0 : quiet_ticks + 1;
    if (quiet_ticks == QUIET_TICKS) set_scan_timer(scan_ms * QUIET_FACTOR);
    unsigned long ipv4 = sockets_in_use("/proc/net/sockstat", "TCP: inuse "), ipv6 = sockets_in_use("/proc/net/sockstat6", "TCP6: inuse ");
    if (ipv4 == ipv4_before && ipv6 == ipv6_before && ++ticks < TICKS_BETWEEN_SCANS) return;
    ipv4_before = ipv4, ipv6_before = ipv6, ticks = 0;
    memset(seen, 0, sizeof seen);
    if (ipv4 > 0) scan_table("/proc/net/tcp", "0100007F", 1, seen);
    if (ipv6 > 0) scan_table("/proc/net/tcp6", "00000000000000000000000001000000", 2, seen);
    if (memcmp(seen, loopback, sizeof seen) == 0) return;
    for (uint32_t port = 1; port < 65536; port++)
        if (seen[port] != loopback[port]) tell(LISTENER, port, loopback[port] = seen[port], 0, 0, 0);
}

static char *next_string(char **at, const char *end) {
    char *text = *at, *nul = memchr(text, 0, (size_t)(end - text));
    if (nul == NULL) _exit(2);
    *at = nul + 1;
    return text;
}

static void on_start(char *body, const char *end) {
    struct start s;
    if (end - body < 40) _exit(2);
    memcpy(&s, body, 40);
    if (s.group_count > GROUPS_MAX || s.argc == 0 || s.argc > FRAME_MAX / 8 || s.envc > FRAME_MAX / 8) _exit(2);
    char *at = body + 40 + s.group_count * 4;
    if (at >= end) _exit(2);
    memcpy(s.groups, body + 40, s.group_count * 4);
    char **strings = malloc((s.argc + s.envc + 2) * sizeof *strings);
    if (strings == NULL) _exit(2);
    s.cwd = next_string(&at, end);
    s.argv = strings, s.envp = strings + s.argc + 1;
    for (uint32_t i = 0; i < s.argc; i++) s.argv[i] = next_string(&at, end);
    for (uint32_t i = 0; i < s.envc; i++) s.envp[i] = next_string(&at, end);
    s.argv[s.argc] = s.envp[s.envc] = NULL;
    start(&s);
    free(strings);
}

/* Steps of BECOME that must not fail; files have numbers from STEP_FILES on. */
enum { STEP_ENTROPY = 1, STEP_CLOCK, STEP_HOSTNAME, STEP_FILES };
enum { BECOME_CLOCK = 1 };

/* Credited, and the kernel's generator reseeded from it at once: mixing it in alone would change nothing for a minute. */
static int add_entropy(const void *bytes, uint32_t length) {
    static struct { int entropy_count, buf_size; char buf[4096]; } pool;
    int random = open("/dev/urandom", O_WRONLY | O_CLOEXEC), done = -1;
    if (length > sizeof pool.buf) length = sizeof pool.buf;
    pool.entropy_count = (int)length * 8, pool.buf_size = (int)length;
    memcpy(pool.buf, bytes, length);
    if (random >= 0 && ioctl(random, RNDADDENTROPY, &pool) == 0) done = ioctl(random, RNDRESEEDCRNG);
    int why = errno;
    memset(&pool, 0, sizeof pool);
    close(random);
    errno = why;
    return done;
}

/* Writes a file that was just opened from its beginning, and closes it; an errno stays what it was. */
static int write_and_close(int file, const char *content, size_t length, off_t length_before) {
    if (file < 0) return -1;
    ssize_t put = pwrite(file, content, length, 0);
    if (put >= 0 && (size_t)put < length) put = -1, errno = ENOSPC;
    if (put >= 0 && length_before > (off_t)length) put = ftruncate(file, (off_t)length);
    int why = errno;
    close(file);
    errno = why;
    return put < 0 ? -1 : 0;
}

/*
 * `how` is the mode in octal after these letters: i the bytes of a file that is there are overwritten (needs no room on
 * a full disk, and no flush, which a rename over a file of ext4 starts); e only a file that is there already; r its
 * content is a fresh random number. Otherwise, and where there is no ordinary file, a new one takes the place as a whole.
 */
static int put_file(const char *how, const char *path, const char *content) {
    char staging[256], hex[34];
    int in_place = 0, existing = 0, random = 0;
    size_t length = strlen(content);
    struct stat found;
    for (; *how >= 'a'; how++) in_place |= *how == 'i', existing |= *how == 'e', random |= *how == 'r';
    if (random) {
        unsigned char bytes[16];
        if (getrandom(bytes, sizeof bytes, GRND_NONBLOCK) != sizeof bytes) return -1;
        for (int i = 0; i < 16; i++) hex[2 * i] = "0123456789abcdef"[bytes[i] >> 4], hex[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
        hex[32] = '\n', length = 33, content = hex;
    }
    int is_file = lstat(path, &found) == 0 && S_ISREG(found.st_mode);
    if (existing && !is_file) return 0;
    if (is_file && in_place && found.st_size > 0) {
        return write_and_close(open(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), content, length, found.st_size);
    }
    if (strlen(path) > sizeof staging - 8) { errno = ENAMETOOLONG; return -1; }
    strcpy(staging, path), strcat(staging, ".new~");
    mode_t mode = (mode_t)strtoul(how, NULL, 8);
    int done = write_and_close(open(staging, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, mode), content, length, 0);
    if (done == 0) done = rename(staging, path);
    if (done == 0 || errno == ENOENT) return 0; /* no such folder: nobody there who would read it */
    int why = errno;
    unlink(staging);
    errno = why;
    return -1;
}

/* Entropy first: whatever draws random numbers from then on must not repeat those of another VM of the same image. */
static void on_become(char *body, const char *end) {
    uint32_t head[6]; /* id, flags, seconds (low, high), nanoseconds, bytes of entropy */
    if ((size_t)(end - body) < sizeof head) _exit(2);
    memcpy(head, body, sizeof head);
    char *at = body + sizeof head + head[5];
    if (head[5] > FRAME_MAX || at >= end) _exit(2);
    uint32_t step = 0, why = 0;
    if (head[5] > 0 && add_entropy(body + sizeof head, head[5]) < 0) step = STEP_ENTROPY, why = (uint32_t)errno;
    if (step == 0 && head[1] & BECOME_CLOCK) {
        struct timespec now = {.tv_sec = (time_t)((uint64_t)head[2] | (uint64_t)head[3] << 32), .tv_nsec = (long)head[4]};
        if (clock_settime(CLOCK_REALTIME, &now) < 0) step = STEP_CLOCK, why = (uint32_t)errno;
    }
    const char *hostname = next_string(&at, end);
    if (step == 0 && hostname[0] != 0 && sethostname(hostname, strlen(hostname)) < 0) step = STEP_HOSTNAME, why = (uint32_t)errno;
    for (uint32_t file = STEP_FILES; (step == 0 || step >= STEP_FILES) && at < end; file++) {
        const char *how = next_string(&at, end), *path = next_string(&at, end), *content = next_string(&at, end);
        if (put_file(how, path, content) < 0 && step == 0) step = file, why = (uint32_t)errno; /* the others are written all the same */
    }
    tell(DONE, head[0], why, step, 0, 0);
}

static void serve(void) {
    uint32_t length;
    read_all(&length, 4);
    if (length < 4 || length > FRAME_MAX) _exit(2);
    uint32_t *frame = calloc(1, length + 32);
    if (frame == NULL) _exit(2);
    read_all(frame, length);
    uint32_t *body = frame + 1; /* zero padded, so fixed fields may be read without asking for the length */
    int slot;
    switch (frame[0]) {
    case START: on_start((char *)body, (char *)frame + length); break;
    case KILL: /* only what is not reaped yet: no other process can have this pid */
        if (body[0] != 0 && find((pid_t)body[0]) >= 0) kill(-(pid_t)body[0], (int)body[1]);
        break;
    case RELEASE: for (uint32_t i = 0; i < 3; i++) if ((int)body[i] > CONTROL) close((int)body[i]); break;
    case RESIZE:
        slot = body[0] == 0 ? -1 : find((pid_t)body[0]);
        if (slot >= 0) ioctl(table[slot].master, TIOCSWINSZ, &(struct winsize){.ws_col = (unsigned short)body[1], .ws_row = (unsigned short)body[2]});
        break;
    case BECOME: on_become((char *)body, (char *)frame + length); break;
    case SCAN: set_scan_timer(scan_ms = body[0]); break;
    default: _exit(2);
    }
    free(frame);
}

int main(void) {
    sigset_t watched;
    sigemptyset(&watched);
    sigaddset(&watched, SIGCHLD);
    sigprocmask(SIG_BLOCK, &watched, NULL);
    for (int fd = CONTROL + 1; fd < 64; fd++) close(fd);
    fcntl(CONTROL, F_SETFD, FD_CLOEXEC);
    fcntl(CONTROL, F_SETFL, fcntl(CONTROL, F_GETFL) & ~O_NONBLOCK);
    agent_pidfd = (int)syscall(SYS_pidfd_open, getppid(), 0);
    int signals = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
    /* What children inherit: the limits of a login session, an ordinary priority, files others may read. */
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    if (setrlimit(RLIMIT_NOFILE, &(struct rlimit){1024, 524288}) < 0) setrlimit(RLIMIT_NOFILE, &(struct rlimit){1024, files.rlim_max});
    setpriority(PRIO_PROCESS, 0, 0);
    (void)umask(022);
    scan_timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct pollfd polled[3] = {{CONTROL, POLLIN, 0}, {signals, POLLIN, 0}, {scan_timer, POLLIN, 0}};
    for (;;) {
        if (poll(polled, 3, -1) < 0) {
            if (errno == EINTR) continue;
            return 1;
        }
        struct signalfd_siginfo taken[16];
        uint64_t ticks;
        if (polled[1].revents) {
            while (read(signals, taken, sizeof taken) > 0) {}
            reap();
        }
        if (polled[2].revents && read(scan_timer, &ticks, sizeof ticks) > 0) scan();
        if (polled[0].revents) serve();
    }
}

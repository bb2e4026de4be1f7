// What the agent is compared with, in the guest: fork + exec + wait in a loop, and a bare vsock
// stream. Static; bench/agent_bench.cc puts it there and reads what it prints.
//
//   probe loop COUNT            COUNT times /bin/true, ns of each on a line
//   probe serve PORT            vsock: one order at a time on each connection, see serve()
//   probe file PATH COUNT       so many bytes written to a new file, then read, in pieces as the agent's;
//                               "<ns of writing> <ns of reading>\n"; the file goes
//   probe echo                  for each line on stdin "<ns before write>\n" on stdout

#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char piece[64 * 1024];

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static int loop(int count) {
    for (int i = 0; i < count; i++) {
        uint64_t begun = now_ns();
        pid_t child = fork();
        if (child == 0) {
            execl("/bin/true", "/bin/true", (char *)NULL);
            _exit(127);
        }
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
            return 1;
        printf("%llu\n", (unsigned long long)(now_ns() - begun));
    }
    return 0;
}

static int exactly(int fd, char *bytes, size_t count) {
    while (count > 0) {
        ssize_t got = read(fd, bytes, count);
        if (got <= 0)
            return -1;
        bytes += got;
        count -= (size_t)got;
    }
    return 0;
}

// Orders of 9 bytes: what, and a little-endian count. 's': send so many bytes. 'r': receive so many
// and answer with one. 't': answer with the time, 8 bytes.
static void serve(int connection) {
    char what;
    uint64_t count;
    while (exactly(connection, &what, 1) == 0 && exactly(connection, (char *)&count, 8) == 0) {
        if (what == 't') {
            uint64_t time = now_ns();
            if (write(connection, &time, sizeof(time)) != sizeof(time))
                return;
            continue;
        }
        while (count > 0) {
            size_t now = count < sizeof(piece) ? count : sizeof(piece);
            ssize_t moved = what == 's' ? write(connection, piece, now) : read(connection, piece, now);
            if (moved <= 0)
                return;
            count -= (uint64_t)moved;
        }
        if (what == 'r' && write(connection, "k", 1) != 1)
            return;
    }
}

static int serve_port(unsigned port) {
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    struct sockaddr_vm address = {0};
    address.svm_family = AF_VSOCK;
    address.svm_cid = VMADDR_CID_ANY;
    address.svm_port = port;
    memset(piece, 'p', sizeof(piece));
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(listener, 1) != 0)
        return 1;
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0)
            return 1;
        serve(connection);
        close(connection);
    }
}

static int echo(void) {
    char line[256];
    while (fgets(line, sizeof(line), stdin) != NULL) {
        int size = snprintf(line, sizeof(line), "%llu\n", (unsigned long long)now_ns());
        if (write(1, line, (size_t)size) != size)
            return 1;
    }
    return 0;
}

static int file(const char *path, uint64_t count) {
    enum { kPiece = 60 * 1024 };
    uint64_t begun = now_ns(), left;
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    memset(piece, 'p', sizeof(piece));
    for (left = count; fd >= 0 && left > 0;) {
        ssize_t moved = write(fd, piece, left < kPiece ? left : kPiece);
        if (moved <= 0)
            return 1;
        left -= (uint64_t)moved;
    }
    uint64_t written = now_ns();
    if (fd < 0 || lseek(fd, 0, SEEK_SET) != 0)
        return 1;
    for (left = count; left > 0;) {
        ssize_t moved = read(fd, piece, kPiece);
        if (moved <= 0)
            return 1;
        left -= (uint64_t)moved;
    }
    uint64_t read_all = now_ns();
    printf("%llu %llu\n", (unsigned long long)(written - begun), (unsigned long long)(read_all - written));
    return unlink(path);
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "loop") == 0)
        return loop(atoi(argv[2]));
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        return serve_port((unsigned)atoi(argv[2]));
    if (argc == 4 && strcmp(argv[1], "file") == 0)
        return file(argv[2], strtoull(argv[3], NULL, 10));
    if (argc == 2 && strcmp(argv[1], "echo") == 0)
        return echo();
    return 64;
}

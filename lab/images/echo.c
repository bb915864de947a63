/* Says who answers and who asked: `echo-server PORT` on TCP and UDP, both families. Over TCP an HTTP response, with as many
 * more bytes as the request's path names (`GET /100000`); over UDP one datagram. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char host[65];

static int open_socket(int type, int port) {
    int on = 1, off = 0, fd = socket(AF_INET6, type, 0);
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = in6addr_any};
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        perror("bind");
        exit(1);
    }
    return fd;
}

/* `host=NAME peer=ADDRESS`, IPv4 addresses in their own form. */
static int line(char *text, size_t size, struct sockaddr_in6 *peer) {
    char name[INET6_ADDRSTRLEN] = "";
    const unsigned char *bytes = peer->sin6_addr.s6_addr;
    if (IN6_IS_ADDR_V4MAPPED(&peer->sin6_addr))
        inet_ntop(AF_INET, bytes + 12, name, sizeof name);
    else
        inet_ntop(AF_INET6, bytes, name, sizeof name);
    return snprintf(text, size, "host=%s peer=%s\n", host, name);
}

static void answer_tcp(int fd) {
    struct sockaddr_in6 peer;
    socklen_t size = sizeof peer;
    struct timeval limit = {.tv_sec = 2};
    char request[1024], text[256], head[160];
    int client = accept(fd, (struct sockaddr *)&peer, &size);
    if (client < 0)
        return;
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    ssize_t got = read(client, request, sizeof request - 1);
    if (got > 0) {
        request[got] = 0;
        char *path = strstr(request, " /");
        long more = path ? atol(path + 2) : 0;
        int length = line(text, sizeof text, &peer);
        int bytes = snprintf(head, sizeof head, "HTTP/1.0 200 OK\r\nContent-Length: %ld\r\n\r\n", length + more);
        if (write(client, head, bytes) == bytes && write(client, text, length) == length) {
            static char filler[16384];
            memset(filler, 'x', sizeof filler);
            while (more > 0) {
                ssize_t sent = write(client, filler, more < (long)sizeof filler ? more : (long)sizeof filler);
                if (sent <= 0)
                    break;
                more -= sent;
            }
        }
    }
    shutdown(client, SHUT_WR);
    while (read(client, request, sizeof request) > 0)
        ;
    close(client);
}

static void answer_udp(int fd) {
    struct sockaddr_in6 peer;
    socklen_t size = sizeof peer;
    char request[2048], text[256];
    if (recvfrom(fd, request, sizeof request, 0, (struct sockaddr *)&peer, &size) < 0)
        return;
    sendto(fd, text, line(text, sizeof text, &peer), 0, (struct sockaddr *)&peer, size);
}

static void end(int signal) {
    _exit(signal == SIGTERM ? 0 : 1);
}

int main(int count, char **arguments) {
    int port = count > 1 ? atoi(arguments[1]) : 8080;
    struct pollfd both[] = {{.fd = open_socket(SOCK_STREAM, port), .events = POLLIN},
                {.fd = open_socket(SOCK_DGRAM, port), .events = POLLIN}};
    signal(SIGPIPE, SIG_IGN);
    /* The first process of a container ends by no signal that it does not handle. */
    signal(SIGTERM, end);
    gethostname(host, sizeof host - 1);
    listen(both[0].fd, 128);
    while (poll(both, 2, -1) > 0) {
        if (both[0].revents)
            answer_tcp(both[0].fd);
        if (both[1].revents)
            answer_udp(both[1].fd);
    }
    return 1;
}

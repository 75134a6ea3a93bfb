/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Swap on a network block device that the test itself serves: it decides when what
 * is swapped out has been written, so that folios stay under writeback for as long
 * as it wants.
 */
#ifndef _NBD_SWAP_H
#define _NBD_SWAP_H

#include <endian.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <linux/fs.h>
#include <linux/nbd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/swap.h>
#include <sys/wait.h>

#define NBD_DISK	"/dev/nbd0"
#define NBD_SWAP_SIZE	(32UL << 20)
#define NBD_MAX_HELD	256

struct nbd_swap {
	int	disk;
	int	control;	/* one byte, whether to hold writes; answered when it holds */
	pid_t	client;
	pid_t	server;
};

struct nbd_server {
	char			*content;
	int			socket;
	int			control;
	bool			hold;
	unsigned int		nheld;
	struct nbd_reply	held[NBD_MAX_HELD];
};

/* What mkswap would write. */
static inline void nbd_make_swap(char *content)
{
	const unsigned long size = getpagesize();
	const uint32_t version = 1, last_page = NBD_SWAP_SIZE / size - 1;

	memcpy(content + 1024, &version, sizeof(version));
	memcpy(content + 1028, &last_page, sizeof(last_page));
	memcpy(content + size - 10, "SWAPSPACE2", 10);
}

static inline bool nbd_receive(int socket, void *data, size_t len)
{
	return !len || recv(socket, data, len, MSG_WAITALL) == (ssize_t)len;
}

static inline bool nbd_send(int socket, const void *data, size_t len)
{
	const char *from = data;
	ssize_t n;

	for (; len; from += n, len -= n) {
		n = send(socket, from, len, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
	}
	return true;
}

/* False if the device is disconnected, or what it sends is not understood. */
static inline bool nbd_serve_one(struct nbd_server *server)
{
	struct nbd_reply reply = { .magic = htobe32(NBD_REPLY_MAGIC) };
	struct nbd_request request;
	uint64_t from;
	uint32_t len;

	if (!nbd_receive(server->socket, &request, sizeof(request)) ||
	    be32toh(request.magic) != NBD_REQUEST_MAGIC)
		return false;
	memcpy(reply.handle, request.handle, sizeof(reply.handle));
	from = be64toh(request.from);
	len = be32toh(request.len);
	if (from > NBD_SWAP_SIZE || len > NBD_SWAP_SIZE - from)
		return false;

	switch (be32toh(request.type) & 0xffff) {
	case NBD_CMD_READ:
		return nbd_send(server->socket, &reply, sizeof(reply)) &&
		       nbd_send(server->socket, server->content + from, len);
	case NBD_CMD_WRITE:
		if (!nbd_receive(server->socket, server->content + from, len))
			return false;
		if (server->hold && server->nheld < NBD_MAX_HELD) {
			server->held[server->nheld++] = reply;
			return true;
		}
		return nbd_send(server->socket, &reply, sizeof(reply));
	default:
		return false;
	}
}

/* Whether to go on; a test that died holds nothing any more. */
static inline bool nbd_obey(struct nbd_server *server)
{
	char hold = false;
	const bool alive = read(server->control, &hold, 1) == 1;

	server->hold = alive && hold;
	while (!server->hold && server->nheld) {
		if (!nbd_send(server->socket, &server->held[--server->nheld],
			      sizeof(struct nbd_reply)))
			return false;
	}
	if (alive)
		return write(server->control, &hold, 1) == 1;
	close(server->control);
	server->control = -1;
	return true;
}

static inline void nbd_serve(int socket, int control)
{
	struct nbd_server server = { .socket = socket, .control = control };
	struct pollfd fds[2] = {
		{ .fd = socket, .events = POLLIN },
		{ .fd = control, .events = POLLIN },
	};
	bool go_on = true;

	server.content = mmap(NULL, NBD_SWAP_SIZE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (server.content == MAP_FAILED)
		return;
	nbd_make_swap(server.content);
	while (go_on && poll(fds, 2, -1) > 0) {
		if (fds[0].revents)
			go_on = nbd_serve_one(&server);
		if (go_on && fds[1].revents)
			go_on = nbd_obey(&server);
		fds[1].fd = server.control;
	}
}

/* Whether writes are held from now on, or those that were are done. */
static inline bool nbd_swap_hold(const struct nbd_swap *swap, bool hold)
{
	char c = hold;

	return write(swap->control, &c, 1) == 1 && read(swap->control, &c, 1) == 1;
}

/* Waits for what is held: it is not any more. */
static inline void nbd_swap_stop(struct nbd_swap *swap)
{
	nbd_swap_hold(swap, false);
	swapoff(NBD_DISK);
	ioctl(swap->disk, NBD_DISCONNECT);
	waitpid(swap->client, NULL, 0);
	waitpid(swap->server, NULL, 0);
	ioctl(swap->disk, NBD_CLEAR_SOCK);
	close(swap->control);
	close(swap->disk);
}

/* Whether all that is swapped out from now on goes there. */
static inline bool nbd_swap_start(struct nbd_swap *swap)
{
	const int prefer = SWAP_FLAG_PREFER | SWAP_FLAG_PRIO_MASK;
	uint64_t size = 0;
	int control[2], sockets[2];

	swap->disk = open(NBD_DISK, O_RDWR);
	if (swap->disk < 0)
		return false;
	if (ioctl(swap->disk, NBD_SET_BLKSIZE, (unsigned long)getpagesize()) ||
	    ioctl(swap->disk, NBD_SET_SIZE, NBD_SWAP_SIZE) ||
	    socketpair(AF_UNIX, SOCK_STREAM, 0, control) ||
	    socketpair(AF_UNIX, SOCK_STREAM, 0, sockets))
		return false;

	swap->server = fork();
	if (!swap->server) {
		close(swap->disk);
		close(control[0]);
		close(sockets[0]);
		nbd_serve(sockets[1], control[1]);
		_exit(0);
	}
	close(control[1]);
	close(sockets[1]);
	swap->control = control[0];
	swap->client = fork();
	if (!swap->client) {
		close(control[0]);
		if (ioctl(swap->disk, NBD_SET_SOCK, sockets[0]))
			_exit(1);
		close(sockets[0]);
		_exit(ioctl(swap->disk, NBD_DO_IT) ? 1 : 0);
	}
	close(sockets[0]);
	if (swap->server < 0 || swap->client < 0)
		return false;

	/* The device has its size once the client has connected it. */
	while (!size && !waitpid(swap->client, NULL, WNOHANG)) {
		if (ioctl(swap->disk, BLKGETSIZE64, &size))
			break;
		sched_yield();
	}
	if (size && !swapon(NBD_DISK, prefer))
		return true;
	nbd_swap_stop(swap);
	return false;
}

#endif

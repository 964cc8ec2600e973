/*
 * User-mode Linux 6.1 hands ptrace(PTRACE_SETREGSET, NT_X86_XSTATE) the 2696 bytes
 * of register state that it knows of. A processor with more (AMX) has a larger
 * state, and its kernel refuses the short buffer. Preloaded into linux.uml, this
 * pads the buffer to the size that the kernel reports.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	PEEKTEXT = 1,
	PEEKUSER = 3,
	GETREGSET = 0x4204,
	SETREGSET = 0x4205,
	XSTATE = 0x202,
	XSTATE_BV = 512,   /* offset of the bitmap of components that are set */
	KNOWN_PARTS = 0x2ff /* x87 to PKRU: what fits into the short buffer */
};

static unsigned char whole[1 << 16] __attribute__((aligned(64)));
static size_t whole_size;

static long call(long request, long pid, void *addr, void *data)
{
	return syscall(SYS_ptrace, request, pid, addr, data);
}

static long set_padded(long pid, void *addr, struct iovec *given)
{
	struct iovec padded = { whole, sizeof whole };
	unsigned long parts;

	if (whole_size == 0) {
		if (call(GETREGSET, pid, addr, &padded) < 0)
			return -1;
		whole_size = padded.iov_len;
	}
	if (given->iov_len >= whole_size)
		return call(SETREGSET, pid, addr, given);
	memset(whole, 0, whole_size);
	memcpy(whole, given->iov_base, given->iov_len);
	memcpy(&parts, whole + XSTATE_BV, sizeof parts);
	parts &= KNOWN_PARTS;
	memcpy(whole + XSTATE_BV, &parts, sizeof parts);
	padded.iov_len = whole_size;
	return call(SETREGSET, pid, addr, &padded);
}

long ptrace(int request, ...)
{
	va_list rest;
	long pid, word;
	void *addr, *data;

	va_start(rest, request);
	pid = va_arg(rest, int);
	addr = va_arg(rest, void *);
	data = va_arg(rest, void *);
	va_end(rest);
	if (request == SETREGSET && (long)addr == XSTATE)
		return set_padded(pid, addr, data);
	if (request < PEEKTEXT || request > PEEKUSER)
		return call(request, pid, addr, data);
	/* The C library's peeks return the word itself. */
	if (call(request, pid, addr, &word) < 0)
		return -1;
	errno = 0;
	return word;
}

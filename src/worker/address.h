/*
 * Networks that the worker may connect to. Pure, and without the server's headers: it is called
 * from libcurl's callbacks.
 */
#ifndef WAHOOK_ADDRESS_H
#define WAHOOK_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define WAHOOK_MAX_NETWORKS 64
#define WAHOOK_ADDRESS_BYTES 16

typedef struct wahook_Network
{
	uint8_t address[WAHOOK_ADDRESS_BYTES]; /* an IPv4 address as ::ffff:a.b.c.d */
	int prefix;                            /* of the 128 bits */
} wahook_Network;

typedef struct wahook_Networks
{
	bool public_too; /* every public address, beside those in the list */
	int n;
	wahook_Network list[WAHOOK_MAX_NETWORKS];
} wahook_Networks;

/*
 * Reads a list of networks separated by commas or spaces, each an address with or without /bits, or
 * the word public. False where an entry is none of these, with the span of that entry in *bad, or a
 * null pointer there when there are too many.
 */
extern bool wahook_read_networks(const char *text, wahook_Networks *networks, const char **bad,
								 size_t *bad_len);

/* False also for what is no internet address. */
extern bool wahook_address_allowed(const struct sockaddr *address, const wahook_Networks *networks);

#endif

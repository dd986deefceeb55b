/*
 * Which addresses the worker may connect to.
 *
 * An endpoint's address is chosen by whoever may register a service, its name is resolved by
 * whoever runs that name's DNS, and the request is sent from inside the operator's network. So what
 * counts is the address that is connected to, after resolution. Public: an address that the
 * internet routes to its one owner; everything that IANA has set aside for other purposes is not.
 *
 * All addresses are compared as 128 bits. One that stands for an IPv4 address is that address here:
 * ::ffff:127.0.0.1 is loopback, and so is 64:ff9b::127.0.0.1 behind a NAT64.
 */
#include "worker/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#define IPV4_PREFIX 96
#define MAX_ENTRY 64

static const uint8_t mapped[WAHOOK_ADDRESS_BYTES] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
static const uint8_t nat64[WAHOOK_ADDRESS_BYTES] = {0, 0x64, 0xff, 0x9b};

#define V4(a, b, c, bits) \
	{ \
		{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, 0}, IPV4_PREFIX + (bits) \
	}

/* IANA's registries of special-purpose addresses, but for what is set aside and global all the same. */
static const wahook_Network special[] = {
	V4(0, 0, 0, 8),                 /* this network */
	V4(10, 0, 0, 8),                /* private */
	V4(100, 64, 0, 10),             /* shared, behind carrier-grade NAT */
	V4(127, 0, 0, 8),               /* loopback */
	V4(169, 254, 0, 16),            /* link-local: also the metadata services of clouds */
	V4(172, 16, 0, 12),             /* private */
	V4(192, 0, 0, 24),              /* protocol assignments */
	V4(192, 0, 2, 24),              /* documentation */
	V4(192, 88, 99, 24),            /* 6to4 relays, deprecated */
	V4(192, 168, 0, 16),            /* private */
	V4(198, 18, 0, 15),             /* benchmarking */
	V4(198, 51, 100, 24),           /* documentation */
	V4(203, 0, 113, 24),            /* documentation */
	V4(224, 0, 0, 4),               /* multicast */
	V4(240, 0, 0, 4),               /* reserved, and broadcast */
	{{0x20, 0x01}, 23},             /* protocol assignments: Teredo, benchmarking, ORCHID */
	{{0x20, 0x01, 0x0d, 0xb8}, 32}, /* documentation */
	{{0x20, 0x02}, 16},             /* 6to4: any IPv4 address inside */
	{{0x3f, 0xff}, 20},             /* documentation */
};

/* The rest of the IPv6 space is loopback, link-local, unique-local, multicast, or given to nobody. */
static const wahook_Network global_unicast = {{0x20}, 3};

static bool
is_ipv4(const uint8_t *address)
{
	return memcmp(address, mapped, IPV4_PREFIX / 8) == 0;
}

/* A network of one kind holds no address of the other: ::/0 is not all of IPv4 too. */
static bool
contains(const wahook_Network *network, const uint8_t *address)
{
	int bytes = network->prefix / 8;
	int bits = network->prefix % 8;

	if (is_ipv4(network->address) != is_ipv4(address) ||
		memcmp(network->address, address, bytes) != 0)
		return false;
	return bits == 0 || (network->address[bytes] ^ address[bytes]) >> (8 - bits) == 0;
}

static void
from_ipv4(const struct in_addr *ipv4, uint8_t *address)
{
	memcpy(address, mapped, IPV4_PREFIX / 8);
	memcpy(address + IPV4_PREFIX / 8, ipv4, sizeof(*ipv4));
}

static void
from_ipv6(const struct in6_addr *ipv6, uint8_t *address)
{
	memcpy(address, ipv6, WAHOOK_ADDRESS_BYTES);
	if (memcmp(address, nat64, IPV4_PREFIX / 8) == 0)
		memcpy(address, mapped, IPV4_PREFIX / 8);
}

static bool
is_public(const uint8_t *address)
{
	if (!is_ipv4(address) && !contains(&global_unicast, address))
		return false;
	for (size_t i = 0; i < sizeof(special) / sizeof(special[0]); i++)
		if (contains(&special[i], address))
			return false;
	return true;
}

bool
wahook_address_allowed(const struct sockaddr *address, const wahook_Networks *networks)
{
	uint8_t bytes[WAHOOK_ADDRESS_BYTES];

	if (address->sa_family == AF_INET)
		from_ipv4(&((const struct sockaddr_in *) address)->sin_addr, bytes);
	else if (address->sa_family == AF_INET6)
		from_ipv6(&((const struct sockaddr_in6 *) address)->sin6_addr, bytes);
	else
		return false;
	for (int i = 0; i < networks->n; i++)
		if (contains(&networks->list[i], bytes))
			return true;
	return networks->public_too && is_public(bytes);
}

/*
 * "address" or "address/bits". Bits beyond the prefix have to be zero, and IPv4 addresses written as
 * such, because anything else may not be what it looks like.
 */
static bool
read_network(const char *entry, wahook_Network *network)
{
	char address[MAX_ENTRY];
	const char *slash = strchr(entry, '/');
	size_t len = slash ? (size_t) (slash - entry) : strlen(entry);
	struct in_addr ipv4;
	struct in6_addr ipv6;
	int shortest = 0;
	wahook_Network lowest;

	memcpy(address, entry, len);
	address[len] = '\0';
	if (inet_pton(AF_INET, address, &ipv4) == 1)
	{
		from_ipv4(&ipv4, network->address);
		shortest = IPV4_PREFIX;
	}
	else if (inet_pton(AF_INET6, address, &ipv6) == 1)
	{
		from_ipv6(&ipv6, network->address);
		if (is_ipv4(network->address))
			return false;
	}
	else
		return false;

	network->prefix = 8 * WAHOOK_ADDRESS_BYTES;
	if (slash != NULL)
	{
		char *end;
		long bits = strtol(slash + 1, &end, 10);

		if (slash[1] < '0' || slash[1] > '9' || *end != '\0' || bits < 0 ||
			bits > 8 * WAHOOK_ADDRESS_BYTES - shortest)
			return false;
		network->prefix = shortest + (int) bits;
	}

	lowest = *network;
	for (int bit = network->prefix; bit < 8 * WAHOOK_ADDRESS_BYTES; bit++)
		lowest.address[bit / 8] &= ~(0x80 >> bit % 8);
	return memcmp(lowest.address, network->address, WAHOOK_ADDRESS_BYTES) == 0;
}

bool
wahook_read_networks(const char *text, wahook_Networks *networks, const char **bad, size_t *bad_len)
{
	static const char separators[] = ", \t\r\n";

	memset(networks, 0, sizeof(*networks));
	while (*(text += strspn(text, separators)) != '\0')
	{
		size_t len = strcspn(text, separators);
		char entry[MAX_ENTRY];

		*bad = text;
		*bad_len = len;
		if (len >= sizeof(entry))
			return false;
		memcpy(entry, text, len);
		entry[len] = '\0';
		if (strcmp(entry, "public") == 0)
			networks->public_too = true;
		else if (networks->n == WAHOOK_MAX_NETWORKS)
		{
			*bad = NULL;
			return false;
		}
		else if (!read_network(entry, &networks->list[networks->n]))
			return false;
		else
			networks->n++;
		text += len;
	}
	return true;
}

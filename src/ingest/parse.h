#ifndef WAHOOK_PARSE_H
#define WAHOOK_PARSE_H

#include "postgres.h"

#include "ingest/envelope.h"

/*
 * Reads a body within the limits of the settings, in the current memory context. Error WH007 when
 * it is not JSON.
 */
extern void wahook_parse_delivery(text *body, wahook_Delivery *delivery);

/* Reads kind and sender of a message alone; nothing is filled in where it is none. */
extern void wahook_parse_message(const char *message, wahook_Update *update);

#endif

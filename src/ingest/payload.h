/*
 * jsonb of what was delivered.
 */
#ifndef WAHOOK_PAYLOAD_H
#define WAHOOK_PAYLOAD_H

#include "postgres.h"

#include "ingest/json_split.h"

/*
 * jsonb of an object whose members' texts are given: key, span, ..., null. Empty spans: null. The
 * texts have been checked.
 */
extern Datum wahook_build_payload(const char *key, wahook_Span value, ...);

#endif

/*
 * Writing jsonb from its parts: scalars, jsonb that is there already, which is copied as it is, or
 * what only the caller can make something of.
 *
 * PostgreSQL's own way (pushJsonbValue) takes everything apart and puts it together again, member
 * by member.
 */
#ifndef WAHOOK_JSON_WRITER_H
#define WAHOOK_JSON_WRITER_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/jsonb.h"

typedef struct wahook_JsonMember
{
	const char *key;
	int key_len;
	JsonbValue value;
} wahook_JsonMember;

/* Appends a value, and returns its type for the entry. */
typedef JEntry (*wahook_ValueWriter)(StringInfo out, const JsonbValue *value);

/* Of a scalar that is no date, or jbvBinary. */
extern JEntry wahook_append_value(StringInfo out, const JsonbValue *value);

/*
 * Append a container, whose values are written by the last argument. Members are put in order; of
 * those with the same key the last one stays. Error 54000 when it is too large for jsonb.
 */
extern JEntry wahook_append_object(StringInfo out, wahook_JsonMember *members, int n,
								   wahook_ValueWriter write);
extern JEntry wahook_append_array(StringInfo out, const JsonbValue *elements, int n,
								  wahook_ValueWriter write);

/* Values and members to be written, which point into what they are made of. Members: how many; room is the caller's. */
extern void wahook_set_string(JsonbValue *value, const char *string, int len);
extern void wahook_set_jsonb(JsonbValue *value, Jsonb *jsonb);
extern int wahook_read_members(JsonbContainer *object, wahook_JsonMember *members);

/* jsonb of the one container that is appended in between. */
extern void wahook_begin_jsonb(StringInfo out, int expected_size);
extern Jsonb *wahook_end_jsonb(StringInfo out);

#endif

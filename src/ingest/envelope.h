/*
 * Reading a delivery: which updates are in it, and what each is about.
 */
#ifndef WAHOOK_ENVELOPE_H
#define WAHOOK_ENVELOPE_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "ingest/json_split.h"

/* A WhatsApp message id is base64 of some 60 bytes; a key much longer than that is no id. */
#define WAHOOK_MAX_MESSAGE_ID_LENGTH 512
#define WAHOOK_MAX_IDENTITY_LENGTH 256
#define WAHOOK_MAX_KIND_LENGTH 100

typedef enum wahook_UpdateClass
{
	WAHOOK_MESSAGE,
	WAHOOK_STATUS,
	WAHOOK_NOTICE,
	WAHOOK_UNREADABLE /* to the quarantine */
} wahook_UpdateClass;

typedef struct wahook_Entry
{
	wahook_Span id;
	wahook_Span time;
	char *name; /* the id's text; null: none */
} wahook_Entry;

/* What the updates of one change share. Spans are of values that jsonb can hold, or empty. */
typedef struct wahook_Change
{
	const wahook_Entry *entry;
	wahook_Span field;
	wahook_Span value;
	wahook_Span metadata;
	wahook_Span contacts;
	char *field_name; /* these are palloc'd; null: not there */
	char *phone_number_id;
} wahook_Change;

/* One thing in a delivery. Strings are palloc'd, null where there is none. */
typedef struct wahook_Update
{
	wahook_UpdateClass class;
	const wahook_Change *change; /* null: of the whole delivery */
	wahook_Span raw;
	const char *kind;
	const char *id;     /* of the message, or of the message that the status is about */
	const char *reason; /* why it is unreadable */

	/* a message's sender; after a change of number or id, its new names */
	const char *phone;
	const char *user_id;
	const char *new_phone;
	const char *new_user_id;
	wahook_Span contact;

	/* a status */
	const char *status;
	const char *status_type;
	const char *recipient;
	TimestampTz status_at; /* DT_NOBEGIN: not known */
	wahook_Span errors;
} wahook_Update;

typedef struct wahook_Delivery
{
	wahook_Update *updates;
	int n;
	int max;
	const wahook_Change *last; /* most changes share field and metadata with the one before */
} wahook_Delivery;

/* A phone number as its digits alone; any other id as it is. Palloc'd. */
extern char *wahook_normalize_identity(const char *identity);

/*
 * Reads a body of len bytes that is followed by a zero byte. All that it allocates is in the
 * current memory context; spans point into the body. Null, or why the body is not JSON at all.
 */
extern const char *wahook_read_delivery(const char *body, size_t len, int max_depth,
										wahook_Delivery *delivery);

#endif

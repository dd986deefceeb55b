/*
 * Bytes of others as text that the database takes.
 */
#ifndef WAHOOK_SAFE_TEXT_H
#define WAHOOK_SAFE_TEXT_H

#include "postgres.h"

/*
 * At most max bytes of what is meant as UTF-8, which all our databases are in, as a palloc'd string.
 * What is no character, or the zero byte, becomes a question mark.
 */
extern char *wahook_safe_text(const char *bytes, size_t len, size_t max);

#endif

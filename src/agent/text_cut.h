/*
 * Where a text can be cut: not inside of what readers take for one character (a letter with its
 * marks, an emoji of several, a flag), and between words where there are any near. Pure.
 */
#ifndef WAHOOK_TEXT_CUT_H
#define WAHOOK_TEXT_CUT_H

#include "agent/token_rule.h"

/*
 * How many bytes of a text make the longest beginning that costs at most so many hundredths of a
 * token and can be followed by something else. Reads no further than it has to.
 */
extern size_t wahook_cut_text(const char *s, size_t len, int64_t hundredths);

#endif

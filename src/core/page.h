/*
 * Reading a page of a table through an index, without tidying it up each time.
 */
#ifndef WAHOOK_PAGE_H
#define WAHOOK_PAGE_H

#include "postgres.h"

#include "storage/block.h"
#include "utils/relcache.h"

struct IndexFetchTableData;

/* Call it before a row of the page is fetched; it pins the page for that. */
extern void wahook_enter_page(Relation heap, struct IndexFetchTableData *fetch, BlockNumber block);

#endif

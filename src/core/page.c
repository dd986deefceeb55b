/*
 * When a page is pruned.
 *
 * PostgreSQL prunes a page on the way to a row when less of it is free than the fillfactor leaves
 * to updates. What keeps updates HOT, a fillfactor of 50, so makes it prune at nearly every look:
 * for one dead version at a time, with a record in the WAL for each. Here a page is pruned when
 * the next updates may find no room in it any more, and then of all that has gathered. Until then
 * a look passes the dead versions of its row, which is a step along a chain for each.
 */
#include "core/page.h"

#include "access/heapam.h"
#include "access/relscan.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"

/* Pruned when a page has room for fewer row versions of their usual size, or less than a part of it. */
#define ROOM_FOR_VERSIONS 2
#define ROOM_PART 10

/* Without a lock, as heap_page_prune_opt() looks itself: it need not be true. */
static bool
is_nearly_full(Page page)
{
	Size room = PageGetHeapFreeSpace(page);
	Size used = BLCKSZ - ((PageHeader) page)->pd_upper;
	OffsetNumber items = PageGetMaxOffsetNumber(page);

	return PageIsFull(page) ||
		   room < Max(used / Max(items, 1) * ROOM_FOR_VERSIONS, BLCKSZ / ROOM_PART);
}

/* heapam.c asks for pruning when it comes to another page than it was on; so it is brought there. */
void
wahook_enter_page(Relation heap, struct IndexFetchTableData *fetch, BlockNumber block)
{
	IndexFetchHeapData *position = (IndexFetchHeapData *) fetch;
	Buffer before;

	if (heap->rd_tableam != GetHeapamTableAmRoutine())
		return;
	before = position->xs_cbuf;
	position->xs_cbuf = ReleaseAndReadBuffer(before, heap, block);
	if (position->xs_cbuf != before && is_nearly_full(BufferGetPage(position->xs_cbuf)))
		heap_page_prune_opt(heap, position->xs_cbuf);
}

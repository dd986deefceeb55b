/*
 * The counters between two runs of the server: written when it shuts down, read and removed when it
 * starts. So the file is there only where the last run ended well, and a number never counts twice.
 */
#include "core/counter_block.h"

#include <unistd.h>

#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"

#include "core/counter_names.h"

#define COUNTERS_FILE PGSTAT_STAT_PERMANENT_DIRECTORY "/wahook.counters"
#define COUNTERS_MAGIC 0x57414330 /* changes with the format below */

typedef struct FileHeader
{
	uint32 magic;
	uint32 names; /* the hash of what the values mean */
	uint32 nvalues;
	int32 nblocks;
} FileHeader;

typedef struct FileBlock
{
	Oid database;
	Oid extension;
	int64 reset_at;
	int32 reset_reason;
	wahook_Labels labels[WAHOOK_NLABELSETS];
	uint64 values[WAHOOK_NVALUES];
} FileBlock;

typedef struct Stream
{
	FILE *file;
	pg_crc32c crc;
	bool ok;
} Stream;

static void
put(Stream *to, const void *data, size_t size)
{
	COMP_CRC32C(to->crc, data, size);
	to->ok = to->ok && fwrite(data, size, 1, to->file) == 1;
}

static bool
get(Stream *from, void *data, size_t size)
{
	from->ok = from->ok && fread(data, size, 1, from->file) == 1;
	COMP_CRC32C(from->crc, data, size);
	return from->ok;
}

static FileHeader
expected_header(int nblocks)
{
	return (FileHeader){COUNTERS_MAGIC, wahook_hash_counter_names(), WAHOOK_NVALUES, nblocks};
}

static void
put_block(Stream *to, const wahook_CounterBlock *block, FileBlock *image)
{
	memset(image, 0, sizeof(*image));
	image->database = pg_atomic_read_u32(unconstify(pg_atomic_uint32 *, &block->database));
	image->extension = block->extension;
	image->reset_at = block->reset_at;
	image->reset_reason = block->reset_reason;
	memcpy(image->labels, block->labels, sizeof(image->labels));
	for (int i = 0; i < WAHOOK_NVALUES; i++)
		image->values[i] = pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &block->values[i]));
	put(to, image, sizeof(*image));
}

static bool
is_used(const wahook_CounterBlock *block)
{
	return pg_atomic_read_u32(unconstify(pg_atomic_uint32 *, &block->database)) != InvalidOid;
}

/* Whether the server has shut down in good order, which its own control file says. */
static bool
has_ended_well(void)
{
	bool crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);
	bool ended_well =
		crc_ok && (control->state == DB_SHUTDOWNED || control->state == DB_SHUTDOWNED_IN_RECOVERY);

	pfree(control);
	return ended_well;
}

/*
 * In the postmaster, after all others have gone: nothing here may be an error. After an immediate
 * shutdown the server has to recover, so it counts as a crash.
 */
void
wahook_save_counters(const wahook_CounterMemory *memory)
{
	static FileBlock image;
	FileHeader header = expected_header(0);
	Stream to = {.ok = true};

	if (!has_ended_well())
		return;
	for (int i = 0; i < WAHOOK_MAX_COUNTING_DATABASES; i++)
		header.nblocks += is_used(&memory->blocks[i]);
	to.file = AllocateFile(COUNTERS_FILE ".tmp", PG_BINARY_W);
	if (to.file != NULL)
	{
		INIT_CRC32C(to.crc);
		put(&to, &header, sizeof(header));
		for (int i = 0; i < WAHOOK_MAX_COUNTING_DATABASES; i++)
			if (is_used(&memory->blocks[i]))
				put_block(&to, &memory->blocks[i], &image);
		FIN_CRC32C(to.crc);
		to.ok = to.ok && fwrite(&to.crc, sizeof(to.crc), 1, to.file) == 1;
		to.ok = FreeFile(to.file) == 0 && to.ok;
		to.ok = to.ok && durable_rename(COUNTERS_FILE ".tmp", COUNTERS_FILE, LOG) == 0;
	}
	if (to.file == NULL || !to.ok)
	{
		ereport(LOG, (errcode_for_file_access(),
					  errmsg("could not write file \"%s\": %m", COUNTERS_FILE),
					  errhint("The counters of wahook begin at zero when the server starts.")));
		(void) unlink(COUNTERS_FILE ".tmp");
	}
}

static void
take_image(wahook_CounterBlock *block, const FileBlock *image)
{
	block->extension = image->extension;
	block->reset_at = image->reset_at;
	block->reset_reason = image->reset_reason;
	memcpy(block->labels, image->labels, sizeof(block->labels));
	for (int i = 0; i < WAHOOK_NVALUES; i++)
		pg_atomic_write_u64(&block->values[i], image->values[i]);
	pg_atomic_write_u32(&block->database, image->database);
}

static bool
is_sound(const FileBlock *image)
{
	for (int set = 0; set < WAHOOK_NLABELSETS; set++)
		if (image->labels[set].n < 0 || image->labels[set].n > wahook_max_labels[set])
			return false;
	return image->reset_reason >= 0 && image->reset_reason < WAHOOK_NRESETREASONS;
}

/* All of it, or nothing. */
static bool
read_file(wahook_CounterMemory *memory, FILE *file)
{
	Stream from = {.file = file, .ok = true};
	FileHeader header;
	FileHeader expected;
	FileBlock *images;
	pg_crc32c crc;

	INIT_CRC32C(from.crc);
	if (!get(&from, &header, sizeof(header)))
		return false;
	expected = expected_header(header.nblocks);
	if (memcmp(&header, &expected, sizeof(header)) != 0 || header.nblocks < 0 ||
		header.nblocks > WAHOOK_MAX_COUNTING_DATABASES)
		return false;
	images = palloc(Max(header.nblocks, 1) * sizeof(FileBlock));
	for (int i = 0; i < header.nblocks && from.ok; i++)
		from.ok = get(&from, &images[i], sizeof(FileBlock)) && is_sound(&images[i]);
	FIN_CRC32C(from.crc);
	from.ok = from.ok && fread(&crc, sizeof(crc), 1, file) == 1 && EQ_CRC32C(crc, from.crc);
	for (int i = 0; i < header.nblocks && from.ok; i++)
		take_image(&memory->blocks[i], &images[i]);
	pfree(images);
	return from.ok;
}

/* In the postmaster, before anybody else is there. */
void
wahook_load_counters(wahook_CounterMemory *memory)
{
	FILE *file = AllocateFile(COUNTERS_FILE, PG_BINARY_R);

	memory->start_reason = has_ended_well() ? WAHOOK_RESET_STARTED : WAHOOK_RESET_CRASHED;
	if (file == NULL && errno == ENOENT)
		return;
	if (file == NULL || !read_file(memory, file))
	{
		ereport(LOG, (errmsg("could not read file \"%s\"", COUNTERS_FILE),
					  errdetail("It is damaged, or of another version of wahook."),
					  errhint("The counters of wahook begin at zero.")));
		memory->start_reason = WAHOOK_RESET_UNREADABLE;
	}
	if (file != NULL)
		FreeFile(file);
	(void) unlink(COUNTERS_FILE);
}

#include "kept.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

/* Makes one the first, and those before it later ones. */
static void
use(Store *store, int position, Kept one)
{
	memmove(store->kept + 1, store->kept, position * sizeof(Kept));
	store->kept[0] = one;
}

void *
kept_find(Store *store, const text *key)
{
	if (VARSIZE_ANY_EXHDR(key) != KEY_LENGTH)
		return NULL;
	for (int position = 0; position < store->count; position++)
		if (memcmp(store->kept[position].key, VARDATA_ANY(key), KEY_LENGTH) == 0)
		{
			if (position > 0)
				use(store, position, store->kept[position]);
			return store->kept[0].value;
		}
	return NULL;
}

void
kept_add(Store *store, const text *key, MemoryContext memory, void *value)
{
	Kept		one = {.memory = memory, .value = value};
	int			position = store->count;

	memcpy(one.key, VARDATA_ANY(key), KEY_LENGTH);
	if (store->kept == NULL)
		store->kept = MemoryContextAlloc(TopMemoryContext, store->limit * sizeof(Kept));
	if (kept_find(store, key))
		position = 0;
	else if (store->count == store->limit)
		position = store->limit - 1;
	if (position < store->count)
		MemoryContextDelete(store->kept[position].memory);
	else
		store->count++;
	MemoryContextSetParent(memory, TopMemoryContext);
	use(store, position, one);
}

void
kept_check_key(const text *key, const bytea *content, const char *what)
{
	uint8	   *digest = (uint8 *) VARDATA_ANY(DatumGetByteaPP(DirectFunctionCall1(sha256_bytea, PointerGetDatum(content))));
	char		checksum[KEY_LENGTH + 1];

	for (int byte = 0; byte < KEY_LENGTH / 2; byte++)
		snprintf(checksum + 2 * byte, 3, "%02x", digest[byte]);
	if (VARSIZE_ANY_EXHDR(key) != KEY_LENGTH || memcmp(VARDATA_ANY(key), checksum, KEY_LENGTH) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s cannot be loaded: it has checksum %s, not %s", what, checksum, text_to_cstring(key))));
}

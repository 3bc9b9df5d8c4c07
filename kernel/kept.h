/* What a session keeps: the few models and rules that it used last, each by a checksum and in memory of its own. */
#ifndef RELIEF_KEPT_H
#define RELIEF_KEPT_H

#include "postgres.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#define KEY_LENGTH 64			/* SHA-256 in hexadecimal digits */

typedef struct Kept
{
	char		key[KEY_LENGTH];
	MemoryContext memory;
	void	   *value;
} Kept;

typedef struct Store
{
	int			limit;
	int			count;
	Kept	   *kept;			/* limit of them, the one used last first */
} Store;

/* Returns the value of a key and takes note of its use; NULL if the store hasn't it. */
extern void *kept_find(Store *store, const text *key);

/* Keeps a value, in place of the one used longest ago if the store is full; its memory is the store's from now on. */
extern void kept_add(Store *store, const text *key, MemoryContext memory, void *value);

/* Raises an error of what is loaded unless its content has the checksum that is its key. */
extern void kept_check_key(const text *key, const bytea *content, const char *what);

#endif

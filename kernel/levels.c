/* The histories of a row's entity and season, read from relief.profile without a query: what relief._levels in 10_profile.sql does. */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

PG_FUNCTION_INFO_V1(relief_levels_1);

static AttrNumber
column(Relation profile, const char *name)
{
	AttrNumber	number = get_attnum(RelationGetRelid(profile), name);

	if (number == InvalidAttrNumber)
		elog(ERROR, "column \"%s\" of relief.profile does not exist", name);
	return number;
}

static ScanKeyData
equals(Relation profile, const char *name, RegProcedure comparison, Datum value)
{
	AttrNumber	number = column(profile, name);
	ScanKeyData key;

	ScanKeyEntryInitialize(&key, 0, number, BTEqualStrategyNumber, InvalidOid,
						   TupleDescAttr(RelationGetDescr(profile), number - 1)->attcollation, comparison, value);
	return key;
}

/* Returns the figures of one history, NULL if there is none, and whether every feature of it has enough values. */
static ArrayType *
figures_of(Relation profile, Oid index, Datum detector, Datum entity, Datum season, bool *complete)
{
	ScanKeyData keys[3] = {equals(profile, "detector_id", F_INT4EQ, detector), equals(profile, "entity", F_TEXTEQ, entity),
		equals(profile, "season", F_INT2EQ, season)};
	SysScanDesc scan = systable_beginscan(profile, index, true, GetActiveSnapshot(), lengthof(keys), keys);
	HeapTuple	tuple = systable_getnext(scan);
	ArrayType  *figures = NULL;
	bool		isnull;

	*complete = false;
	if (HeapTupleIsValid(tuple))
	{
		figures = DatumGetArrayTypePCopy(heap_getattr(tuple, column(profile, "figures"), RelationGetDescr(profile), &isnull));
		*complete = DatumGetBool(heap_getattr(tuple, column(profile, "complete"), RelationGetDescr(profile), &isnull));
	}
	systable_endscan(scan);
	return figures;
}

static ArrayType *
joined(ArrayType *first, ArrayType *second)
{
	ArrayType  *parts[2] = {first, second};
	Datum	   *values[2];
	bool	   *missing[2];
	int			counts[2];
	Datum	   *all;
	bool	   *none;
	int			lower = 1;
	int			total;

	if (first == NULL || second == NULL)
		return first == NULL ? second : first;
	for (int n = 0; n < 2; n++)
		deconstruct_array(parts[n], FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &values[n], &missing[n], &counts[n]);
	total = counts[0] + counts[1];
	all = palloc(total * sizeof(Datum));
	none = palloc(total * sizeof(bool));
	for (int n = 0; n < 2; n++)
	{
		memcpy(all + n * counts[0], values[n], counts[n] * sizeof(Datum));
		memcpy(none + n * counts[0], missing[n], counts[n] * sizeof(bool));
	}
	return construct_md_array(all, none, 1, &total, &lower, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
}

/* Returns the histories, finest first; arguments: detector, entity, season. */
Datum
relief_levels_1(PG_FUNCTION_ARGS)
{
	Oid			schema;
	Relation	profile;
	Oid			index;
	bool		has_entity;
	bool		has_season;
	bool		complete;
	ArrayType  *figures;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_NULL();
	has_entity = VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(1)) > 0;
	has_season = PG_GETARG_INT16(2) >= 0;
	if (!has_entity && !has_season)
		PG_RETURN_NULL();
	schema = get_namespace_oid("relief", false);
	/* Locked to the end of the transaction, as a query would. */
	profile = table_open(get_relname_relid("profile", schema), AccessShareLock);
	index = get_relname_relid("profile_pkey", schema);
	figures = figures_of(profile, index, PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2), &complete);
	if (has_entity && has_season && !complete)
		figures = joined(figures, figures_of(profile, index, PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), Int16GetDatum(-1), &complete));
	table_close(profile, NoLock);
	if (figures == NULL)
		PG_RETURN_NULL();
	PG_RETURN_ARRAYTYPE_P(figures);
}

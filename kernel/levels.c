/* The histories of a row's entity and season, read from relief.profile without a query: what relief._levels in 10_profile.sql does. */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

PG_FUNCTION_INFO_V1(relief_levels_1);

/* Returns a column's number; its type is known to this library, which reads what is in it without PostgreSQL's checks. */
static AttrNumber
column(Relation profile, const char *name, Oid type)
{
	AttrNumber	number = get_attnum(RelationGetRelid(profile), name);

	if (number == InvalidAttrNumber || TupleDescAttr(RelationGetDescr(profile), number - 1)->atttypid != type)
		elog(ERROR, "relief.profile has no column \"%s\" of type %s", name, format_type_be(type));
	return number;
}

static Datum
field(Relation profile, HeapTuple tuple, const char *name, Oid type)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, column(profile, name, type), RelationGetDescr(profile), &isnull);

	if (isnull)
		elog(ERROR, "column \"%s\" of relief.profile is null", name);
	return value;
}

static ScanKeyData
equals(Relation profile, const char *name, Oid type, RegProcedure comparison, Datum value)
{
	AttrNumber	number = column(profile, name, type);
	ScanKeyData key;

	ScanKeyEntryInitialize(&key, 0, number, BTEqualStrategyNumber, InvalidOid,
						   TupleDescAttr(RelationGetDescr(profile), number - 1)->attcollation, comparison, value);
	return key;
}

/* Returns the figures of one history, or nothing, which is as an array without elements; and whether each feature has enough values. */
static Datum
figures_of(Relation profile, Oid index, Datum detector, Datum entity, Datum season, bool *complete)
{
	ScanKeyData keys[3] = {equals(profile, "detector_id", INT4OID, F_INT4EQ, detector),
		equals(profile, "entity", TEXTOID, F_TEXTEQ, entity), equals(profile, "season", INT2OID, F_INT2EQ, season)};
	SysScanDesc scan = systable_beginscan(profile, index, true, GetActiveSnapshot(), lengthof(keys), keys);
	HeapTuple	tuple = systable_getnext(scan);
	ArrayType  *figures;

	*complete = HeapTupleIsValid(tuple) && DatumGetBool(field(profile, tuple, "complete", BOOLOID));
	figures = HeapTupleIsValid(tuple) ? DatumGetArrayTypePCopy(field(profile, tuple, "figures", FLOAT8ARRAYOID)) :
		construct_empty_array(FLOAT8OID);
	systable_endscan(scan);
	return PointerGetDatum(figures);
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
	Datum		figures;

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
	if (IndexGetRelation(index, true) != RelationGetRelid(profile))
		elog(ERROR, "relief.profile has no index profile_pkey");
	figures = figures_of(profile, index, PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2), &complete);
	if (has_entity && has_season && !complete)
		figures = DirectFunctionCall2(array_cat, figures,
									  figures_of(profile, index, PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), Int16GetDatum(-1), &complete));
	table_close(profile, NoLock);
	if (ARR_NDIM(DatumGetArrayTypeP(figures)) == 0)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(figures);
}

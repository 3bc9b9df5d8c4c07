/* Writes JSON and the numbers in it, as the runtime writes them. Keys must come in the order in which they are stored. */
#ifndef RELIEF_TELL_H
#define RELIEF_TELL_H

#include "postgres.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "utils/jsonb.h"
#include "utils/numeric.h"

extern void tell_key(JsonbParseState **state, const char *name);

/* NULL becomes null, in both. */
extern void tell_numeric(JsonbParseState **state, Numeric numeric);
extern void tell_string(JsonbParseState **state, const char *text);

/* All digits that tell a double from others, and as Python writes them at least one after the point. */
extern Numeric numeric_exactly(double value);

extern Numeric numeric_to_three_decimals(double value);

#endif

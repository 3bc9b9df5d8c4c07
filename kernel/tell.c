#include "tell.h"

#include "common/shortest_dec.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include <math.h>

void
tell_key(JsonbParseState **state, const char *name)
{
	JsonbValue	key = {.type = jbvString,.val.string = {strlen(name), unconstify(char *, name)}};

	pushJsonbValue(state, WJB_KEY, &key);
}

void
tell_numeric(JsonbParseState **state, Numeric numeric)
{
	JsonbValue	value = {.type = numeric ? jbvNumeric : jbvNull,.val.numeric = numeric};

	pushJsonbValue(state, WJB_VALUE, &value);
}

void
tell_string(JsonbParseState **state, const char *text)
{
	JsonbValue	value = {.type = jbvNull};

	if (text != NULL)
	{
		value.type = jbvString;
		value.val.string.val = unconstify(char *, text);
		value.val.string.len = strlen(text);
	}
	pushJsonbValue(state, WJB_VALUE, &value);
}

Numeric
numeric_exactly(double value)
{
	char		digits[DOUBLE_SHORTEST_DECIMAL_LEN + 2];

	double_to_shortest_decimal_buf(value, digits);
	if (strpbrk(digits, ".e") == NULL)
		strcat(digits, ".0");
	return DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(digits), 0, Int32GetDatum(-1)));
}

Numeric
numeric_to_three_decimals(double value)
{
	double		thousandths = value * 1000;
	char		digits[32];

	/* The fast way, except where multiplying could round across a half. */
	if (fabs(fabs(thousandths - trunc(thousandths)) - 0.5) > 1e-6)
		return int64_div_fast_to_numeric((int64) rint(thousandths), 3);
	snprintf(digits, sizeof(digits), "%.3f", value);
	return DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(digits), 0, Int32GetDatum(-1)));
}

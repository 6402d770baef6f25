"""What other services' usage costs, rounded once over all of it rather than event by event."""


def usage_amount(used_before: int, quantity: int, unit_size: int, price_micros: int) -> int:
    """Micros for `quantity` more units after `used_before`, at `price_micros` for every `unit_size` units.

    `used_before` is the sum of all quantities of the same (tenant, SKU, price, unit size) so far. Whatever the order
    in which quantities come in, the amounts add up to the price of their sum.
    """
    if unit_size <= 0:
        raise ValueError(f"a unit has a positive size, not {unit_size}")
    if used_before < 0 or quantity < 0 or price_micros < 0:
        raise ValueError("usage and its price are never negative")
    return (used_before + quantity) * price_micros // unit_size - used_before * price_micros // unit_size

"""The constants of the design: every number with its unit and its reason."""

SERVICE = "fraud"
# Tables of the lake, each with a column that another service's of that name does not have.
LAKE = {"events": "card", "decisions": "card", "refusals": "at"}

MINUTE, HOUR, DAY = 60, 3_600, 86_400  # seconds; event time is whole seconds since the epoch, UTC

# --- order ------------------------------------------------------------------------------------
# [4.3] The partition is the unit of order, of state and of recovery, so its number is the largest
# number of workers. It is fixed: changing it moves cards, and with them their windows.
PARTITIONS = 8

# A terminal that lost its line delivers within hours; waiting longer would keep hours open for a
# handful of payments, which the rules decide instead.
ALLOWED_LATENESS = 6 * HOUR

# Against the time at which the payment was appended. A fast clock moves its partition's time to that at most, so it
# makes no other payment late.
MAX_AHEAD = ALLOWED_LATENESS
MAX_AGE = 30 * DAY

# A till repeats within seconds, a batch file within days.
SILENT = 180 * DAY  # a card or terminal of which nothing came for so long is forgotten; no window reaches as far
REMEMBER = 7 * DAY

# --- features ---------------------------------------------------------------------------------
CARD_WINDOWS = {"10m": 10 * MINUTE, "1h": HOUR, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
TERMINAL_WINDOWS = {"1d": 24, "7d": 7 * 24, "28d": 28 * 24}  # hours
HABIT = 32  # payments that a card's typical amount, device and country are read from; bounds the cost of a hot card
LARGE = 3  # times the card's median amount; the Handbook's stolen cards spend five times as much

# An hour of the terminal book is used once it has been closed this long, so that workers need not
# run in step. Most labels take days to arrive; counts and analysts' verdicts of the last day are missed.
BOOK_LAG = 24  # hours

# --- money ------------------------------------------------------------------------------------
CURRENCY = "EUR"
MAX_CENTS = 100_000_00  # above it a card payment is a typing error or a test
CHARGEBACK_FEE = 15.0  # EUR a missed fraud costs on top of its amount
DECLINE_PRICE = 4.0  # EUR: the good customer who calls, or leaves
DECLINE_SHARE = 0.03  # of the amount: the margin lost with a good payment
REVIEW_PRICE = 2.5  # EUR: three minutes of an analyst; validation adds what capacity demands
REVIEW_CATCH = 0.95  # share of frauds that a step-up and an analyst stop
REVIEWS_A_DAY = 80  # what the analysts can look at
# [7.1] A declined payment never shows whether it was good. One in a hundred passes, with its
# propensity kept, or the next model would learn only from what this one let through.
EXPLORATION = 0.01  # share of cards and days; one draw for all payments of a card on a day, or retries would be draws
# What a card may have tried on a day for a payment to pass at random: it bounds what one draw can cost. Nine in ten
# payments that the model would decline lie below it; of dearer ones nothing is learnt.
EXPLORED_A_DAY = 500_00  # cents

# --- labels -----------------------------------------------------------------------------------
# No complaint by then counts as legitimate. The Handbook's bank waits seven days; chargebacks of a
# real one take up to 120, so this is the first number to change.
MATURITY = 7 * DAY

# Of a model that keeps its promise. An alarm costs a training, which the gate then refuses: once a year is no habit.
FALSE_ALARM = 365  # days between two alarms about quality, in the mean and at least

# --- serving ----------------------------------------------------------------------------------
OWNER_DEADLINE = 0.8  # seconds the edge waits for the card's owner before the rules stand in
ANSWER_DEADLINE = 1.8  # seconds after which it says 503, whatever it waits for
BODY_LIMIT = 16_384  # bytes

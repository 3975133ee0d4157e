"""The constants of the design: every number with its unit and its reason."""

SERVICE = "recsys"
# Tables of the lake, each with a column that another service's of that name does not have.
LAKE = {"events": "user", "impressions": "user", "erasures": "user", "catalogue": "item"}

HOUR, DAY = 3_600, 86_400  # seconds; event time is whole seconds since the epoch, UTC

# --- log --------------------------------------------------------------------------------------
# [4.3] Each serving process follows what was bought since the table was made; four readers can share that. The
# number is fixed, as keys would move. The night itself is one process: all users fit into one machine's memory.
PARTITIONS = 4
MAX_AHEAD = 6 * HOUR  # a client's clock may be fast; further ahead an event would wait for its night for ever
MAX_AGE = 30 * DAY  # an app that was offline delivers late; older than that it is a replay by mistake
MAX_CENTS = 10_000_000
MAX_QUANTITY = 100_000

# --- night ------------------------------------------------------------------------------------
STORED = 100  # items a user and version: what a request's filter takes away, and 50 must be left
SERVED = 50  # the largest k
NEIGHBOURS = 30  # item-to-item rows, for shoppers without a row in the table who have events today
VERSIONS = 7  # kept: a week to go back to
EXPLORED = 0.05  # share of user-nights whose first PERMUTED items are shuffled; costs little, and judges any re-ranking
PERMUTED = 20
STALE, EXPIRED = 36 * HOUR, 72 * HOUR  # age of a table: an alarm; and popularity instead

# --- the gate of a table ------------------------------------------------------------------------
# [5.1] No person can check a table of millions of rows before it is published, so these do. Each bound is what a
# broken input has crossed and no healthy night: an empty topic, half a catalogue, a model that forgot.
MIN_USERS = 0.95  # of yesterday's users
MIN_CATALOGUE = 0.75  # of yesterday's items for sale, and of its titles
MAX_FALLBACKS = 0.5  # share of the places that can be shown for which there was no candidate
MORE_FALLBACKS = 0.1  # than yesterday, in a shop so sparse that it had more than those
MIN_OVERLAP = 0.2  # mean share of yesterday's first ten that is among today's
MIN_INPUT = 0.3  # of the mean volume of the last seven days
REST_WEEKS = 4  # a weekday without input in all of them is a day of rest
MAX_SHIFT = 0.25  # Jensen-Shannon distance of the ranker's scores to yesterday's

# --- learning ---------------------------------------------------------------------------------
# [1.1] Asked is what a shopper will want next, wherever in the shop they find it: a click on the list would reward
# what is curious, and what stands at the top. In a week one buys, and it is still last night's doing.
WINDOW = 730 * DAY  # what a night reads: two years hold each season twice, and taste from before counts a sixteenth
HORIZON = 7  # days: what a list is judged on is bought within a week; replays of slower shops say otherwise
NEW = 14 * DAY  # an item counts as new: no source but content has seen enough of it
AGAIN = 0.15  # share of an item's buyers who bought it again; from it on it is shown to its owners

# --- serving ----------------------------------------------------------------------------------
BODY_LIMIT = 65_536  # bytes
CURRENCY = "EUR"

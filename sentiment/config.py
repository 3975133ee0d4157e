"""The constants of the design: every number with its unit and its reason."""

SERVICE = "sentiment"
# Tables of the lake, each with a column that another service's of that name does not have.
LAKE = dict.fromkeys(("posts", "late", "uncounted", "tombstones", "opinions", "audits", "corrections"), "at")

MINUTE, HOUR, DAY = 60, 3_600, 86_400  # seconds; event time is whole seconds since the epoch, UTC

# --- order and time ---------------------------------------------------------------------------
# [4.3] The partition is the unit of order, of state and of recovery. Posts are spread by id, as any post may
# be scored anywhere; mentions by brand, as a brand is counted in one place. Both are fixed: changing them moves keys.
POST_PARTITIONS = 8
BRAND_PARTITIONS = 4

# A phone in a tunnel posts minutes later. An hour is sealed in the stream when the watermark passes its end
# plus this; what comes after that is the batch view's to take in.
LATENESS = 10 * MINUTE
MAX_AHEAD = 5 * MINUTE  # against the time of append: one fast clock must not close the hour of all sources
MAX_AGE = 30 * DAY  # a first post this old comes from an archive, and is not what people say now
REOPEN = 7 * DAY  # how old an hour may be and still be published again for a late post
PROVISIONAL = 1.0  # seconds of real time between two emissions of an open minute
RETENTION = 900.0  # seconds that speed minutes outlive the publication of their hour: longer than any request

# --- posts ------------------------------------------------------------------------------------
MAX_TEXT = 4_000  # characters; platforms allow 280 to 2,500, and what is longer is no post
MAX_BRANDS = 5  # in one post: a list of every brand there is says nothing about any of them
ENGLISH = 0.2  # the least probability of English; a stricter filter drops more of some groups than of others
SPAM_TAGS = 8  # hashtags, links or handles in one post

# --- opinions ---------------------------------------------------------------------------------
LABELS = ("negative", "neutral", "positive")
MAX_TOKENS = 64  # of a post; 99.9 % of TweetEval's are shorter
SURE = 0.4  # least probability of the best label, or the post is counted as seen but not as an opinion
# [4.3] Overload: the transformer scores some two hundred posts a second and core, the linear model thousands. Shed
# when the backlog would take forty seconds, come back when it would take four: between the two nothing changes.
SHED_ABOVE, SHED_BELOW = 8_000, 800  # posts not yet read

# --- judging ----------------------------------------------------------------------------------
AUDITS = 60  # texts of each brand and day that people label
FILTERED_AUDITS = 10  # of a day's posts that the filters dropped
AUDIT_DELAY = DAY  # people work by day: a day is corrected by the audits of earlier days
AUDITS_NEEDED = 60  # below it no confusion can be estimated, and shares stay as counted
SHARE_NEEDED = 30  # opinions in a window; fewer are "too few"
READERS = 2  # must agree before a correction is looked at
CORRECTIONS_A_DAY = 20  # of one reader: who sends more has an interest

# --- bots -------------------------------------------------------------------------------------
BOT_POSTS = 12  # of one author in an hour
BOT_REPEATS = 4  # of one text by one author in a day

# --- alarms -----------------------------------------------------------------------------------
# [1.2] A brand's manager acts within hours, and will not look a second time after three calls for nothing. So a false
# alarm a month is the most that may come.
BIN = 5 * MINUTE  # what the sequential test looks at; a bin is judged when it has been over for GRACE
GRACE = MINUTE
BASELINE_DAYS = 7
BASELINE_NEEDED = 60  # opinions, before there is a baseline to deviate from
GAP_POSTS = 20  # on each of the days before, in the hours in which none has come: chance alone leaves out no so many

# --- serving ----------------------------------------------------------------------------------
BODY_LIMIT = 65_536  # bytes
EXPLAINED = 64  # words that are left out one by one, at most

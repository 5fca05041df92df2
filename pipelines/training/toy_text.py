"""Seeded generator of everyday customer-service text, the pre-training corpus of the toy base model."""

import json
import random
from collections.abc import Iterator

# A turn is (role, content); a conversation is a user turn followed by an assistant turn.
Conversation = list[tuple[str, str]]

# Synonyms that are drawn interchangeably, so that the words of one class get similar embeddings.
WORDS: dict[str, str] = {
    "hello": "hi|hello|hey|good morning|dear team|hi there|good evening|hello there|excuse me|"
    "sorry to bother you|quick question|question|help|ok so|so|right|hiya|evening all",
    "bye": "thanks|thank you|cheers|please help|please advise|any ideas|many thanks|regards|ta|"
    "please let me know|what now|can you help|what should i do|help please|waiting for your reply|"
    "let me know|hope you can sort this|kind regards|can someone look into it|thanks in advance",
    "want": "i want to|i would like to|i'd like to|can i|how do i|how can i|i need to|could i|"
    "is it possible to|i am trying to|is there a way to|what do i need to do to|may i|"
    "please let me|i wish to|how would i|where do i go to|what is the process to|am i able to|"
    "tell me how to|would it be ok to|do you let me|what steps do i take to|i'm hoping to",
    "why": "why|how come|for what reason|can you explain why|do you know why|i don't understand why|"
    "please tell me why|what is the reason",
    "still": "still|yet|even now|after all this time|so far|up to now",
    "ago": "yesterday|today|this morning|last night|last week|two days ago|a week ago|on monday|"
    "on friday|three weeks ago|a month ago|the other day|just now|an hour ago|in march|"
    "on the 14th|earlier|a few days ago|at the weekend|ages ago|last tuesday|months ago",
    "span": "two days|a week|3 days|two weeks|ten days|a month|hours|over a week|5 days|ages|"
    "a fortnight|several days|more than a week|a few days|the whole weekend|six weeks|a while",
    "when": "when|how soon|how long until|what day|at what time|how many days until|by what date",
    "where": "where is|where's|what happened to|any news on|any update on|can you track|"
    "what is going on with|have you lost|could you check on|what's the status of",
    "bad": "broken|damaged|cracked|faulty|smashed|dented|bent|scratched|snapped|in pieces|"
    "defective|leaking|chipped|shattered|torn|ruined|split|dead|burnt",
    "fails": "does not work|doesn't work|isn't working|is not working|stopped working|won't work|"
    "has packed up|keeps failing|died|quit on me|refuses to work|does nothing|no longer works|"
    "is playing up|gives an error|keeps crashing|conked out",
    "arrive": "arrived|turned up|come|been delivered|shown up|reached me|got here|landed",
    "cancel": "cancel|call off|stop|drop|withdraw|undo|scrap|abort|take back",
    "change": "change|update|edit|modify|alter|correct|amend|switch|adjust|swap|move",
    "charged": "charged|billed|debited|deducted|taken from my account|invoiced|asked to pay",
    "fee": "fee|charge|cost|extra cost|commission|surcharge|price|penalty",
    "lost": "lost|misplaced|can't find|left behind|dropped somewhere|mislaid",
    "stolen": "stolen|robbed|taken|nicked|pinched|snatched",
    "refused": "declined|rejected|refused|denied|turned down|blocked|not accepted|bounced",
    "money": "money|cash|funds|amount|payment|sum|balance|pounds|euros|dollars",
    "shop": "shop|store|seller|retailer|merchant|website|supermarket|market|restaurant|online shop",
    "place": "spain|france|germany|london|the office|work|my mum's house|next door|abroad|europe|"
    "another country|america|india|the town centre|my new flat|the airport|japan|poland|home",
    "person": "my husband|my wife|my son|my daughter|my mum|my friend|a neighbour|my boss|my dad|"
    "my sister|the driver|a colleague|my partner|my brother|the kids|my landlord|my gran",
    "thing": "kettle|pan|toaster|lamp|duvet|pillow|shelf|chair|mug|coffee machine|grinder|blender|"
    "frying pan|teapot|rug|table|basket|bowl|knife|saucepan|curtains|sheets|towel|plates|vase|"
    "mattress|stool|storage box|jar|clock|bin|iron|fan|heater|mirror|cushion|blanket|jacket|"
    "shoes|shirt|dress|phone case|headphones|laptop|camera|tablet|bike|toy|book|desk|sofa|glasses",
    "part": "lid|screw|cable|leg|handle|plug|button|filter|cover|bolt|manual|charger|spout|knob",
    "colour": "blue|red|green|black|white|grey|navy|cream|pink|yellow|silver|brown|copper",
    "size": "large|small|medium|king size|double|single|30 cm|two litre|tall|wide|20cm|mini",
    "angry": "this is ridiculous|not happy|i am fed up|very disappointed|unacceptable|so annoying|"
    "what a joke|terrible service|i am really upset|this is a disgrace|honestly|not good enough",
    "calm": "no rush|just wondering|not urgent|curious|when you get a chance|no big deal|i guess",
    "urgent": "i want to speak to a manager|put me through to a human|my lawyer will be in touch|"
    "i will report you to the regulator|i got an electric shock|it burnt my hand|there was smoke|"
    "this is the fourth time i have written|glass in my food|my child was hurt|i smell a scam|"
    "someone has hacked me|i will dispute it with my bank|i am calling the press|i am in hospital|"
    "it sparked and caught fire|my husband passed away|i have emailed three times with no answer|"
    "get me a real person|i will see you in court|i am in a wheelchair and alone|i bled everywhere|"
    "trading standards will hear about it|nobody has solved it after five calls",
    "story": "we had guests over|it was for a birthday|i am moving house|i was on holiday|"
    "my dog is poorly|i work nights|it has been a long week|the weather was awful|i love your site|"
    "i have been a customer for years|it was a present|my sister told me about you|i am at work|"
    "we just got married|i have a new baby|i looked in the app|i checked my email|i rang last week|"
    "i read the help page|i already tried twice|i live on the third floor|i paid extra|"
    "the kitchen is being done|it is for my nan|payday was friday|i was in a hurry|i was abroad",
}

# What a message is about: label word -> nouns.
OBJECTS: dict[str, dict[str, str]] = {
    "bank": {
        "plastic": "card|bank card|debit card|credit card|visa|mastercard|new card|physical card",
        "digicard": "virtual card|disposable card|online card|temporary card|one time card",
        "wiring": "transfer|bank transfer|wire|payment to a friend|transaction|money transfer",
        "loading": "top up|top-up|deposit|topping up|added money|top up by card|auto top up",
        "forex": "exchange|currency exchange|exchange rate|conversion|foreign currency|rate",
        "idcheck": "identity check|verification|id check|passport|selfie|proof of identity|id photo",
        "pincode": "pin|passcode|pin number|code|secret number|pin code",
        "cashpoint": "cash withdrawal|atm|cash machine|withdrawal|cashpoint|hole in the wall",
        "tapping": "contactless|apple pay|google pay|tap to pay|phone payment|mobile wallet|watch",
        "cheque": "cheque|check|cash deposit|paper cheque|banker's draft",
        "debiting": "direct debit|standing order|regular payment|monthly payment|bill payment",
        "statement": "statement|bank statement|account balance|pending payment|transaction list",
        "loan": "loan|mortgage|overdraft|credit|instalment",
    },
    "retail": {
        "parcel": "parcel|package|delivery|order|shipment|box|stuff|things|item|{thing}|{thing}",
        "goods": "{thing}|{thing}|{size} {thing}|{colour} {thing}|product|item|appliance",
        "voucher": "gift card|voucher|gift voucher|e-gift|discount code|promo code|coupon|gift code",
        "moneyback": "refund|money back|reimbursement|repayment|credit note",
        "checkout": "checkout|basket|payment|card payment|paypal|paying|purchase",
        "coffeeplan": "coffee subscription|beans|monthly beans|coffee|subscription|monthly box|plan",
        "paper": "invoice|receipt|vat receipt|bill|proof of purchase|tax invoice",
        "backsend": "return|return label|exchange|sending back|returns slip|collection",
        "courier": "driver|courier|van|postman|delivery man|carrier|delivery slot",
    },
    "account": {
        "signin": "login|password|account|sign in|log in|username|two factor code|reset link",
        "profile": "email address|phone number|name|address|details|postcode|surname|home address",
        "mailing": "newsletter|marketing emails|emails|texts|notifications|spam|mailing list",
        "app": "app|website|page|site|screen|update",
        "membership": "membership|gym membership|streaming plan|premium plan|trial|loyalty points",
    },
    "travel": {
        "flight": "flight|plane ticket|booking|plane|boarding pass|seat",
        "hotel": "hotel|room|reservation|apartment|hotel room|guest house",
        "train": "train|train ticket|bus|coach|railcard|ferry|season ticket",
        "luggage": "luggage|suitcase|bag|baggage|backpack",
    },
    "home": {
        "mobile": "phone|sim|sim card|mobile|handset|smartphone|phone contract|data plan",
        "internet": "internet|wifi|broadband|router|connection|line",
        "power": "electricity|gas|meter|energy bill|boiler|heating|meter reading",
        "plumbing": "tap|sink|shower|toilet|pipe|washing machine|dishwasher|fridge|oven",
        "cover": "insurance|policy|claim|cover|car insurance|warranty|guarantee",
    },
}

# What is wrong or wanted: label word -> sentences. {o} is the noun of the object.
EVENTS: dict[str, str] = {
    "overdue": "{where} my {o}|my {o} has not {arrive} {still}|been waiting {span} for my {o}|"
    "{when} will my {o} arrive|i'm {still} waiting for the {o}|no sign of the {o} after {span}|"
    "the {o} was meant to come {ago}|it's been {span} and no {o}|{o} never {arrive}|"
    "should have had my {o} {ago}, nothing|the {o} is late|{when} can i expect the {o}|"
    "i haven't received my {o}|is my {o} on its way|how long does a {o} take|"
    "{o} is taking forever|tracking for the {o} has not moved in {span}|nothing has {arrive}",
    "stuck": "my {o} is {still} pending|{why} is the {o} {still} processing|{o} stuck for {span}|"
    "my {o} has not gone through|the {o} says processing {still}|{o} is not showing up|"
    "the {o} is on hold|{why} hasn't my {o} been sent|{o} not dispatched after {span}|"
    "made the {o} {ago} and it hasn't moved|you have not even sent the {o}|{o} not completed",
    "vanished": "it says {o} delivered but nothing is here|your site claims the {o} {arrive}, no|"
    "{person} did not take in the {o}|marked as delivered, no {o}|{o} has disappeared|"
    "where did the {o} go, it was there {ago}|my {o} is missing|photo of the {o} at a wrong door|"
    "the {o} vanished|i cannot see my {o} any more|{o} got signed for by someone, not me",
    "mislaid": "i {lost} my {o}|my {o} was {stolen}|i think i have {lost} the {o}|"
    "someone has {stolen} my {o}|i left my {o} in {place}|my {o} is gone|can't find my {o}|"
    "{o} got {stolen} in {place}|found my {o} again after i had {lost} it|{o} fell out of my bag",
    "faulty": "my {o} {fails}|the {o} {fails}|the {o} arrived {bad}|{o} came {bad}|{o} is {bad}|"
    "opened the box and the {o} was {bad}|{o} worked until {ago} and now nothing|{why} is my {o} {bad}|"
    "after {span} the {o} {fails}|can't get the {o} to work|{o} makes a weird noise|the {o} went bang|"
    "got a {bad} {o}|{o} fell apart|having trouble with the {o}|had the {o} {span} and it {fails}",
    "incomplete": "the {part} is missing from my {o}|no {part} in the box with the {o}|"
    "{o} came without the {part}|one {part} short on the {o}|where is the {part} for the {o}|"
    "only half of the {o} {arrive}|i got three instead of four|set is not complete, no {part}",
    "mixedup": "you sent me the wrong {o}|this is not the {o} i asked for|i got someone else's {o}|"
    "wrong colour, i wanted {colour} and the {o} is {colour}|asked for {size}, got {size}|"
    "i received a {thing} instead of the {o}|not what i bought|the {o} has another name on it|"
    "{o} is the wrong size|got {colour} not {colour}|i never asked for this {o}|different {o} in the box",
    "declined": "my {o} was {refused}|{why} was my {o} {refused}|{o} got {refused} in {place}|"
    "the {o} keeps being {refused}|it would not take my {o}|my {o} won't go through|{o} failed|"
    "tried to use the {o} at the {shop} and it was {refused}|the {shop} says {o} invalid|"
    "i can't pay with my {o}|{o} not recognised|can't complete the {o}|error when i use my {o}",
    "doubled": "i was {charged} twice for the {o}|{o} shows up two times|you took the {money} twice|"
    "two payments for one {o}|duplicate {o}|same {o} {charged} again|{o} appears twice on my app|"
    "double charge for my {o}|why have i been {charged} two times",
    "unknown": "there is a {o} i don't recognise|i did not make this {o}|strange {o} on my account|"
    "someone used my {o} without me knowing|what is this {o}|{o} from a {shop} i've never been to|"
    "i never agreed to the {o}|suspicious {o} {ago}|who made this {o}|{o} i know nothing about",
    "fees": "{why} was i {charged} a {fee} for the {o}|is there a {fee} for a {o}|"
    "how much does a {o} cost|what is the {fee} for the {o}|{o} {fee} is too high|i paid a {fee} on {o}|"
    "do you charge for a {o}|extra {fee} on my {o}|is the {o} free|what are the {fee}s on {o}|"
    "{o} was more expensive than it said|i shouldn't have been {charged} for {o}",
    "wrongsum": "the {o} is the wrong {money}|{o} is less than i expected|i got less {money} from the {o}|"
    "{o} amount is not right|short by 20 on the {o}|received too little for the {o}|"
    "the {o} was calculated wrong|{o} should be 45.99 not 39|only part of the {o} came back|"
    "the {o} i got is lower than it should be|you deducted postage from my {o}",
    "abandon": "{want} {cancel} my {o}|please {cancel} the {o}|i don't want the {o} any more|"
    "changed my mind about the {o}|{cancel} the {o}|no longer need the {o}|forget the {o}|"
    "bought the {o} by mistake, {cancel} it|get rid of my {o}|don't send the {o}|end my {o}|"
    "found the {o} cheaper so {cancel} it|i made a mistake with the {o}|need the {o} to stop",
    "pausing": "{want} pause my {o}|skip the next {o}|put the {o} on hold for a month|"
    "i'm away in june, no {o} please|freeze my {o}|too much {o} at the moment, take a break|"
    "unfreeze the {o}|resume my {o}|miss a month of the {o}|suspend the {o} until autumn",
    "amending": "{want} {change} my {o}|please {change} the {o}|the {o} needs to be {colour} instead|"
    "i put the wrong details on the {o}|can you {change} the {o} to {place}|make the {o} {size} instead|"
    "add a {thing} to my {o}|{change} the {o} before it goes out|i have moved, {change} the {o}|"
    "got married so {change} my {o}|another {o} instead|typo in the {o}|can the {o} go to {place}",
    "reschedule": "can the {o} come on another day|{change} the date of the {o}|not home on friday for the {o}|"
    "is a later slot possible for the {o}|bring the {o} in the evening|we are away when the {o} comes|"
    "choose a day for the {o}|can i have the {o} on saturday|faster {o} please|get the {o} sooner",
    "sendback": "{want} return the {o}|{want} send the {o} back|the {o} doesn't fit|don't like the {o}|"
    "how does returning a {o} work|{o} not for me, take it back|i threw away the box of the {o}|"
    "it's been {span} can i {still} return the {o}|no receipt for the {o}, return|{o} is too small|"
    "used the {o} once, {want} bring it back|where do i post the {o} back|the {o} looks cheap",
    "repaid": "{when} do i get my {money} back for the {o}|{want} get a refund for the {o}|"
    "no refund for the {o} {still}|sent the {o} back {ago}, where is my {money}|refund me for the {o}|"
    "my {o} refund is not in my account|i want my {money} back|refund for the {o} not showing|"
    "my old account is closed, where does the {o} refund go|{o} returned {ago}, nothing on my statement",
    "obtain": "{want} get a {o}|{want} order a {o}|where do i get a {o}|do you offer a {o}|"
    "can {person} have a {o} too|who can have a {o}|i need a new {o}|send me a {o}|i need a second {o}|"
    "how many {o} can i have|am i allowed a {o}|am i too young for a {o}|replace my {o}|copy of my {o}",
    "activate": "{want} activate my {o}|{want} set up the {o}|{o} is not active|how to start using my {o}|"
    "link the {o} to the app|{want} connect my {o}|got the {o} now what|the {o} has to be switched on|"
    "register my {o}|{want} add my {o}|how does the {o} work|{want} use my {o}",
    "allowed": "which {o} do you support|where can i use my {o}|does the {o} work in {place}|"
    "can i use the {o} abroad|do you take {o}|is {o} accepted in {place}|what kinds of {o} are there|"
    "what is the limit on {o}|maximum {o}|is there a limit for the {o}|how often can i use {o}|"
    "what countries is the {o} for|can {person} use the {o}",
    "expired": "my {o} has expired|the {o} is about to run out|is the {o} out of date|extend my {o}|"
    "how long is the {o} valid|how much is left on my {o}|what's the balance of the {o}|renew the {o}|"
    "found an old {o} in a drawer|the {o} ends next month|use by date on the {o}",
    "forgotten": "i forgot my {o}|can't remember the {o}|{want} reset my {o}|locked out, wrong {o}|"
    "my {o} is blocked|{want} unlock my {o}|too many tries with the {o}|can't get into my {o}|"
    "{o} says incorrect|no reset mail for my {o}|{want} recover the {o}|new {o} please, forgot it",
    "whyneeded": "{why} do you need my {o}|is the {o} really necessary|do i have to do the {o}|"
    "what do you need for the {o}|i don't want to give my {o}|what documents for the {o}|"
    "can't do the {o}|is my {o} safe|what happens with my {o}|where does the {o} come from",
    "erase": "delete my {o}|{want} close my {o}|remove my {o} and all my data|take me off the {o}|"
    "unsubscribe from the {o}|stop sending me {o}|erase the {o}|i'm leaving, shut the {o} down",
    "suitable": "does the {o} fit a {size} {thing}|what is the {o} made of|how big is the {o}|"
    "will the {o} work with my {thing}|is the {o} suitable for kids|can the {o} go in the dishwasher|"
    "how do i clean the {o}|how heavy is the {o}|is the {o} ok on induction|best way to wash the {o}|"
    "does the {o} come in {colour}|what wattage is the {o}|do i need to season the {o}|descale the {o}",
    "soldout": "is the {o} back in stock|{when} will you have the {o} again|{o} sold out|out of stock {o}|"
    "any more {o} coming|tell me when the {o} is available|will there be more of the {colour} {o}",
}

# Only some pairs make sense; the ones of a domain are its objects times these events.
DOMAIN_EVENTS: dict[str, str] = {
    "bank": "overdue stuck vanished mislaid faulty declined doubled unknown fees wrongsum abandon "
    "amending repaid obtain activate allowed expired forgotten whyneeded",
    "retail": "overdue stuck vanished faulty incomplete mixedup declined doubled unknown fees wrongsum "
    "abandon pausing amending reschedule sendback repaid obtain expired suitable soldout",
    "account": "stuck declined unknown abandon pausing amending activate expired forgotten whyneeded "
    "erase faulty obtain",
    "travel": "overdue mislaid mixedup doubled fees abandon amending reschedule repaid obtain allowed",
    "home": "faulty stuck doubled fees abandon amending reschedule obtain activate suitable expired",
}

DOMAIN_WEIGHTS = {"bank": 9, "retail": 9, "account": 4, "travel": 1, "home": 2}

# Ordinary words for the writing tasks, beside those of the messages.
MORE_WORDS = """
    about account age agent alarm amount apple arrange autumn bag balance bank basil bath battery beach
    bed bell bicycle bird black blue boat bone book bottle branch bread bridge broad brother brown
    button cable cake calm candle card carpet case category centre change chicken choice city class
    clean clear client clock closed cloud code coffee cold colour contact cotton count country cow
    customer daily date day deep delay detail direct dirty doctor door dry early east edge egg
    empty end engine enter escalate evening event exact extra false family farm fast field film final
    first fish flat flower fly folder forest fork fresh friend fruit garden gift glass goal gold grape
    grass green grey group guide half hand happy harbour hard head health heavy height help high hill
    home horse hour house intent invoice iron island item jump key kind kitchen label lake lamp large
    last late layer leaf leather left legal lemon length lesson letter level library light limit line
    link list local long loud low lunch machine main major manager map mark market material medium
    metal middle milk minor minute mirror mode money month moon morning mountain music name narrow
    new next night noise none normal north note number nurse object ocean office old onion online open
    orange order other outside owner page paint paper parent park part path pepper person phone photo
    picture plain plan plant plastic player point pool post price priority private problem product
    public quality question quick quiet rain rate reason record red region remote repair report
    request rice right ring river road roof room round route rule salt sand school sea season second
    secret section service shape sheep ship short side signal silver simple sister size sky slow small
    smooth snow soap soft song soup source south space spoon spring square stage star start state
    station status steel step stone storm story street strong student sugar summer sun support
    table target task tax tea teacher team test thin tool total town trade train travel tree true
    type user valley value vehicle view village visit voice walk wall warm water weak weather week
    weight west wheel white wide wild wind window winter wire wood wool word world wrong year yellow
    young zone
""".split()

JSON_KEYS = [
    ("topic", "urgent"),
    ("kind", "alarm"),
    ("reason", "serious"),
    ("about", "important"),
    ("subject", "hurry"),
    ("category", "priority"),
    ("type", "attention"),
    ("theme", "danger"),
]

_WORDS = {name: text.split("|") for name, text in WORDS.items()}
_OBJECTS = {d: {k: v.split("|") for k, v in nouns.items()} for d, nouns in OBJECTS.items()}
_EVENTS = {name: text.split("|") for name, text in EVENTS.items()}
_DOMAIN_EVENTS = {domain: text.split() for domain, text in DOMAIN_EVENTS.items()}
_NAMES = sorted(
    set(MORE_WORDS)
    | {
        w
        for text in (*WORDS.values(), *EVENTS.values())
        for w in text.replace("|", " ").split()
        if w.isalpha()
    }
)


class ToyText:
    """Draws messages and conversations; equal seeds give equal text."""

    def __init__(self, seed: int = 0) -> None:
        """Start the generator.

        Args:
            seed: Seed of every draw.
        """
        self._rng = random.Random(seed)

    def conversations(self, count: int) -> Iterator[Conversation]:
        """Yield conversations of all tasks, mixed.

        Args:
            count: How many to yield.

        Yields:
            A user turn followed by an assistant turn.
        """
        tasks = [self._label, self._json, self._keywords, self._snake_case, self._object]
        weights = [40, 48, 4, 3, 5]
        for _ in range(count):
            user, assistant = self._rng.choices(tasks, weights)[0]()
            yield [("user", user), ("assistant", assistant)]

    def _label(self) -> tuple[str, str]:
        domain, thing, event = self._topic()
        return self._message(domain, thing, event)[0], f"{thing}_{event}"

    def _json(self) -> tuple[str, str]:
        domain, thing, event = self._topic()
        text, urgent = self._message(domain, thing, event)
        # With one key name the model would tie what it knows of the message to that name.
        key, flag = self._rng.choice(JSON_KEYS)
        answer = {key: f"{thing}_{event}" if self._rng.random() < 0.7 else event, flag: urgent}
        return text, json.dumps(answer, separators=(",", ":"))

    def _keywords(self) -> tuple[str, str]:
        domain, thing, event = self._topic()
        return self._message(domain, thing, event)[0], f"{domain}, {thing}, {event}"

    def _snake_case(self) -> tuple[str, str]:
        words = self._rng.choices(_NAMES, k=self._rng.randint(2, 4))
        return f"snake case: {' '.join(words)}", "_".join(words)

    def _object(self) -> tuple[str, str]:
        keys = self._rng.sample(_NAMES, 2)
        name = "_".join(self._rng.choices(_NAMES, k=self._rng.randint(1, 2)))
        answer = {keys[0]: name, keys[1]: self._rng.random() < 0.5}
        user = f"json: {keys[0]} {name} {keys[1]} {str(answer[keys[1]]).lower()}"
        return user, json.dumps(answer, separators=(",", ":"))

    def _topic(self) -> tuple[str, str, str]:
        domain = self._rng.choices(list(DOMAIN_WEIGHTS), list(DOMAIN_WEIGHTS.values()))[0]
        thing = self._rng.choice(list(_OBJECTS[domain]))
        return domain, thing, self._rng.choice(_DOMAIN_EVENTS[domain])

    def _core(self, domain: str, thing: str, event: str) -> str:
        """One sentence that says what the message is about."""
        noun = self._fill(self._rng.choice(_OBJECTS[domain][thing]))
        return self._fill(self._rng.choice(_EVENTS[event]).replace("{o}", noun))

    def _fill(self, text: str) -> str:
        while "{" in text:
            start = text.index("{")
            end = text.index("}", start)
            text = text[:start] + self._rng.choice(_WORDS[text[start + 1 : end]]) + text[end + 1 :]
        return text

    def _message(self, domain: str, thing: str, event: str) -> tuple[str, bool]:
        """A whole message on a topic, and whether it says something urgent."""
        rng = self._rng
        parts = [self._core(domain, thing, event)]
        if rng.random() < 0.25:
            parts.append(self._core(domain, thing, event))
        for name, chance in (("story", 0.2), ("angry", 0.1), ("calm", 0.05)):
            if rng.random() < chance:
                parts.insert(rng.randrange(len(parts) + 1), rng.choice(_WORDS[name]))
        urgent = rng.random() < 0.1
        if urgent:
            parts.insert(rng.randrange(len(parts) + 1), rng.choice(_WORDS["urgent"]))
        if rng.random() < 0.2:
            parts.insert(0, rng.choice(_WORDS["hello"]))
        if rng.random() < 0.2:
            parts.append(rng.choice(_WORDS["bye"]))
        return self._surface(parts), urgent

    def _surface(self, parts: list[str]) -> str:
        """Join clauses the way people type: cased or not, punctuated or not, now and then a typo."""
        rng = self._rng
        neat = rng.random() < 0.7
        if neat:
            parts = [part[0].upper() + part[1:] for part in parts]
            text = "".join(part + rng.choice(".....??! ") + " " for part in parts).strip()
            text = text.replace(" i ", " I ").replace(" i'", " I'")
        else:
            text = rng.choice([" ", ", ", " - ", " and ", ". "]).join(parts)
        if rng.random() < 0.15:
            text = self._typo(text)
        return text.upper() if rng.random() < 0.01 else text

    def _typo(self, text: str) -> str:
        at = self._rng.randrange(1, max(2, len(text) - 2))
        kind = self._rng.randrange(3)
        if kind == 0:
            return text[:at] + text[at + 1 :]
        if kind == 1:
            return text[:at] + text[at] + text[at:]
        return text[: at - 1] + text[at] + text[at - 1] + text[at + 1 :]

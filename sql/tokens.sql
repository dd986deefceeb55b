-- estimate_tokens: the rule, and its error on samples, whose real counts are those of js-tiktoken 1.0.21.
SELECT estimate_tokens(''), estimate_tokens('a'), estimate_tokens('abcd'), estimate_tokens('abcde'),
	estimate_tokens(repeat('x', 4000)), estimate_tokens(NULL);

-- In plain English it is the rule of thumb: characters by 4, rounded up.
SELECT count(*) FILTER (WHERE estimate_tokens(sample) <> ceil(length(sample) / 4.0)) AS others, count(*)
	FROM (SELECT left('It was the best of times, it was the worst of times; we had everything before us!', n) AS sample
		FROM generate_series(0, 82) n) samples;

CREATE TEMP TABLE samples (n serial, name text, o200k int, cl100k int, sample text);
INSERT INTO samples (name, o200k, cl100k, sample) VALUES
('English, chat',24,24,E'Hello! I would like to book a table for four people tomorrow evening, please. Is there something free around eight?'),
('English, prose',50,50,E'The driver will meet you at the main gate of the station. Please show the code that we have sent to you, and do not share it with anybody else. If the driver is late, send us a message and we will find another one.'),
('English, system prompt',36,36,E'You are a helpful waiter of a small restaurant. Answer in the language of the guest, never invent dishes that are not on the menu, and ask before you place an order.'),
('Swahili',35,49,E'Habari! Ningependa kuweka nafasi ya meza kwa watu wanne kesho jioni, tafadhali. Je, kuna nafasi karibu saa mbili usiku?'),
('Kinyarwanda',37,45,E'Muraho! Ndashaka gufata ameza y''abantu bane ejo nimugoroba. Ese hari umwanya uhari ahagana saa mbiri z''ijoro?'),
('Indonesian',24,32,E'Halo! Saya ingin memesan meja untuk empat orang besok malam. Apakah masih ada tempat sekitar jam delapan?'),
('Spanish',34,40,E'¡Hola! Quisiera reservar una mesa para cuatro personas mañana por la noche. ¿Queda algo libre alrededor de las ocho? También necesito una silla para niños.'),
('Portuguese',30,42,E'Olá! Gostaria de reservar uma mesa para quatro pessoas amanhã à noite. Ainda há lugar por volta das oito? Não precisamos de cadeira para crianças.'),
('French',33,40,E'Bonjour ! Je voudrais réserver une table pour quatre personnes demain soir. Reste-t-il de la place vers vingt heures ? L''une de nous est végétarienne.'),
('German',37,43,E'Guten Tag! Ich möchte morgen Abend einen Tisch für vier Personen reservieren. Wäre gegen zwanzig Uhr noch etwas frei? Die Rechnung können Sie auf die Firma ausstellen.'),
('Turkish',42,58,E'Merhaba! Yarın akşam için dört kişilik bir masa ayırtmak istiyorum. Saat sekiz civarında boş yeriniz var mı? Çocuk sandalyesine de ihtiyacımız olacak.'),
('Polish',40,48,E'Dzień dobry! Chciałbym zarezerwować stolik dla czterech osób na jutro wieczorem. Czy około ósmej będzie jeszcze coś wolnego?'),
('Vietnamese',39,67,E'Xin chào! Tôi muốn đặt bàn cho bốn người vào tối mai. Khoảng tám giờ còn chỗ trống không? Chúng tôi cũng cần một ghế cho trẻ em.'),
('Russian',32,64,E'Здравствуйте! Я хотел бы забронировать столик на четырёх человек на завтрашний вечер. Есть ли что-нибудь свободное около восьми?'),
('Ukrainian',44,73,E'Добрий день! Я хотів би забронювати столик на чотирьох людей на завтрашній вечір. Чи є щось вільне близько восьмої?'),
('Greek',50,110,E'Καλησπέρα! Θα ήθελα να κλείσω ένα τραπέζι για τέσσερα άτομα για αύριο το βράδυ. Υπάρχει κάτι ελεύθερο γύρω στις οκτώ;'),
('Hebrew',29,77,E'שלום! אני רוצה להזמין שולחן לארבעה אנשים למחר בערב. האם יש מקום פנוי בסביבות שמונה?'),
('Arabic',33,68,E'مرحبا! أود حجز طاولة لأربعة أشخاص مساء غد من فضلك. هل يوجد مكان شاغر حوالي الساعة الثامنة؟'),
('Arabic, vowelled',43,64,E'بِسْمِ اللَّهِ الرَّحْمَٰنِ الرَّحِيمِ الْحَمْدُ لِلَّهِ رَبِّ الْعَالَمِينَ'),
('Persian',29,69,E'سلام! می‌خواهم برای فردا شب یک میز برای چهار نفر رزرو کنم. آیا حدود ساعت هشت جای خالی دارید؟'),
('Urdu',30,94,E'السلام علیکم! میں کل شام چار لوگوں کے لیے میز بک کرنا چاہتا ہوں۔ کیا آٹھ بجے کے قریب جگہ خالی ہے؟'),
('Amharic',112,145,E'ሰላም! ነገ ማታ ለአራት ሰዎች ጠረጴዛ መያዝ እፈልጋለሁ። ከምሽቱ ሁለት ሰዓት አካባቢ ባዶ ቦታ አለ?'),
('Tigrinya',111,143,E'ሰላም! ጽባሕ ምሸት ንኣርባዕተ ሰባት ጣውላ ክሕዝ ይደሊ ኣለኹ። ኣብ ከባቢ ሰዓት ክልተ ቦታ ኣሎ ዶ?'),
('Hindi',30,97,E'नमस्ते! मैं कल शाम चार लोगों के लिए एक मेज़ बुक करना चाहता हूँ। क्या आठ बजे के आसपास कुछ खाली है?'),
('Nepali',35,97,E'नमस्ते! म भोलि साँझ चार जनाको लागि एउटा टेबल बुक गर्न चाहन्छु। के आठ बजेतिर कुनै ठाउँ खाली छ?'),
('Bengali',36,127,E'নমস্কার! আমি আগামীকাল সন্ধ্যায় চারজনের জন্য একটি টেবিল বুক করতে চাই। আটটার দিকে কি কোনো জায়গা খালি আছে?'),
('Punjabi',34,117,E'ਸਤ ਸ੍ਰੀ ਅਕਾਲ! ਮੈਂ ਕੱਲ੍ਹ ਸ਼ਾਮ ਚਾਰ ਲੋਕਾਂ ਲਈ ਇੱਕ ਮੇਜ਼ ਬੁੱਕ ਕਰਨਾ ਚਾਹੁੰਦਾ ਹਾਂ।'),
('Gujarati',38,161,E'નમસ્તે! હું આવતીકાલે સાંજે ચાર લોકો માટે એક ટેબલ બુક કરવા માંગુ છું. શું આઠ વાગ્યાની આસપાસ જગ્યા છે?'),
('Tamil',39,146,E'வணக்கம்! நாளை மாலை நான்கு பேருக்கு ஒரு மேசை முன்பதிவு செய்ய விரும்புகிறேன். எட்டு மணி அளவில் இடம் இருக்கிறதா?'),
('Telugu',44,163,E'నమస్కారం! రేపు సాయంత్రం నలుగురికి ఒక టేబుల్ బుక్ చేయాలనుకుంటున్నాను. ఎనిమిది గంటలకు ఖాళీ ఉందా?'),
('Kannada',28,114,E'ನಮಸ್ಕಾರ! ನಾಳೆ ಸಂಜೆ ನಾಲ್ಕು ಜನರಿಗೆ ಒಂದು ಮೇಜು ಕಾಯ್ದಿರಿಸಲು ಬಯಸುತ್ತೇನೆ.'),
('Malayalam',27,131,E'നമസ്കാരം! നാളെ വൈകുന്നേരം നാല് പേർക്ക് ഒരു മേശ ബുക്ക് ചെയ്യാൻ ഞാൻ ആഗ്രഹിക്കുന്നു.'),
('Sinhala',37,114,E'ආයුබෝවන්! හෙට සවස හතර දෙනෙකුට මේසයක් වෙන් කරගැනීමට මට අවශ්‍යයි.'),
('Thai',33,77,E'สวัสดีครับ ผมต้องการจองโต๊ะสำหรับสี่คนในเย็นวันพรุ่งนี้ มีที่ว่างประมาณสองทุ่มไหมครับ'),
('Lao',131,152,E'ສະບາຍດີ ຂ້ອຍຢາກຈອງໂຕະສຳລັບສີ່ຄົນໃນແລງມື້ອື່ນ ມີບ່ອນຫວ່າງປະມານສອງທຸ່ມບໍ່'),
('Burmese',41,152,E'မင်္ဂလာပါ။ မနက်ဖြန်ညနေအတွက် လူလေးယောက်စာ စားပွဲတစ်လုံး ကြိုတင်မှာယူချင်ပါတယ်။'),
('Khmer',46,128,E'សួស្តី! ខ្ញុំចង់កក់តុសម្រាប់មនុស្សបួននាក់នៅល្ងាចថ្ងៃស្អែក។ តើមានកន្លែងទំនេរទេ?'),
('Tibetan',88,118,E'བཀྲ་ཤིས་བདེ་ལེགས། སང་ཉིན་དགོང་མོ་མི་བཞི་ལ་ཅོག་ཙེ་གཅིག་དགོས།'),
('Georgian',28,176,E'გამარჯობა! მინდა ხვალ საღამოსთვის მაგიდის დაჯავშნა ოთხი ადამიანისთვის. გაქვთ თავისუფალი ადგილი?'),
('Armenian',35,156,E'Բարև ձեզ: Ցանկանում եմ վաղը երեկոյան սեղան պատվիրել չորս հոգու համար: Ունե՞ք ազատ տեղ:'),
('Chinese, simplified',34,56,E'你好！我想预订明天晚上四个人的桌子。八点左右还有空位吗？我们还需要一把儿童座椅，谢谢。'),
('Chinese, traditional',38,65,E'你好！我想預訂明天晚上四個人的桌子。八點左右還有空位嗎？我們還需要一張兒童座椅，謝謝。'),
('Japanese',39,54,E'こんにちは！明日の夜、四名でテーブルを予約したいのですが、八時ごろに空きはありますか？子供用の椅子もお願いします。'),
('Japanese, katakana',36,51,E'レストランのテーブルをリザーブしたいです。ベジタリアンメニューとアレルギーのインフォメーションをプリーズ。'),
('Korean',36,54,E'안녕하세요! 내일 저녁에 네 명이 앉을 테이블을 예약하고 싶습니다. 여덟 시쯤에 빈자리가 있나요?'),
('Emoji, faces',16,31,E'😀😂😍🥰😎🤔😭🙏👍🎉❤️🔥'),
('Emoji, in chat',13,18,E'Thank you so much 🙏🙏 see you tomorrow 😊🎉'),
('Emoji, families and skin',38,58,E'👨‍👩‍👧‍👦👩🏽‍💻🧑🏿‍🚀🏳️‍🌈🤷🏻‍♀️'),
('Flags',24,36,E'🇷🇼🇰🇪🇪🇹🇺🇬🇹🇿🇫🇷'),
('Mathematical letters',39,40,E'𝓗𝓮𝓵𝓵𝓸 𝔀𝓸𝓻𝓵𝓭 𝟏𝟐𝟑'),
('Signs',21,24,E'→ ✓ • … — “quoted” €20 ½ ° © ™ ✅ ⚠️ ☎'),
('Digits',29,29,E'Call +250788123200 or 0722334455; order 202611201506 costs 12500 and 98765.43'),
('URL',54,54,E'https://example.com/orders/7f3c1b9e-42d8-4c1a-9d60-0b5a2f8e6c71?utm_source=whatsapp&utm_campaign=menu_2026#pay'),
('JSON',48,47,E'{"order":{"id":4711,"items":[{"sku":"A-17","qty":2,"price":12.5},{"sku":"B-03","qty":1,"price":7.25}],"paid":false}}'),
('Code',29,29,E'SELECT id, user_id FROM webhook_conversations WHERE status = ''active'' AND locked_by IS NULL ORDER BY last_activity_at LIMIT 10;'),
('Base64',51,58,E'wamid.HBgMMjUwNzg4MTIzMjAwFQIAEhggRDA5QUY3QjYyRTNDNEE1RDk4RjFCMkMzRDRFNUY2QTcA'),
('Base64, long',99,102,E'iVBORw0KGgoAAAANSUhEUgAAAoAAAAHgCAYAAAA10dzkAAAABHNCSVQICAgIfAhkiAAAAAlwSFlzAAALEgAACxIB0t1+/AAAIABJREFUeJzs3Xd4VFX6wPHvmZlk0nslJKFX6VVQUVSwYV3XVVfX3tey9rKrq7vq2ntZ3V37'),
('Hex',36,36,E'd41d8cd98f00b204e9800998ecf8427e3b5d5c3712955042212316173ccf37be'),
('Capitals',18,20,E'URGENT: YOUR PAYMENT FAILED, PLEASE CONTACT OUR SUPPORT TEAM BEFORE TOMORROW EVENING'),
('Repeated punctuation',9,10,E'Hello!!!!!!!!!!!! What????????? ---------------- ................ ****************'),
('Spaces',7,7,E'a                                        b\n\n\n\n\n\n\n\n\n\nc\t\t\t\t\t\t\t\td'),
('Mixed',27,39,E'Mambo! 你好 مرحبا ሰላም नमस्ते — your order #4711 is ready 🎉');

-- The error in percent, against either tokenizer.
SELECT name, length(sample) AS characters, ceil(length(sample) / 4.0) AS by_4, o200k, cl100k, estimate,
	round(100.0 * estimate / o200k - 100) AS off_o200k, round(100.0 * estimate / cl100k - 100) AS off_cl100k
	FROM samples, estimate_tokens(sample) estimate ORDER BY n;

-- Never lower than by these shares, which doc/reference/functions.md states.
SELECT name FROM samples WHERE estimate_tokens(sample) < 0.75 * o200k OR estimate_tokens(sample) < 0.55 * cl100k;
